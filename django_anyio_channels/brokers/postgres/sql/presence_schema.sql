-- Create the table that presence needs, where it does not exist.
-- Expects no parameters; several statements, to be run in one transaction. Any number of sessions may run it at once.
-- Returns nothing of use.
-- It is unlogged, so a crash of the server loses the records; nodes put them again.
SELECT pg_catalog.set_config('lock_timeout', '2s', true);
SELECT pg_catalog.pg_advisory_xact_lock(7241003358);
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.django_anyio_channels_presence (
    name bytea NOT NULL,
    key text NOT NULL,
    content bytea NOT NULL,
    ends timestamptz NOT NULL,
    PRIMARY KEY (name, key)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
