-- Create the table of idempotency keys where it does not exist.
-- Expects no parameters; several statements, to be run in one transaction. Any number of sessions may run it at once.
-- Returns nothing of use.
-- It is unlogged, as the messages are. The position is that of a message which was kept in a history.
SELECT pg_catalog.set_config('lock_timeout', '2s', true);
SELECT pg_catalog.pg_advisory_xact_lock(7241003358);
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.django_anyio_channels_sent (
    place bytea NOT NULL,
    key bytea NOT NULL,
    expires timestamptz NOT NULL,
    position text,
    PRIMARY KEY (place, key)
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
