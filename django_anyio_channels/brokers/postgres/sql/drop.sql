-- Drop all tables and functions of this package's, with what is in them.
-- Expects no parameters; several statements. Returns nothing.
DROP TABLE IF EXISTS {schema}.django_anyio_channels_job;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_cursor;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_outbox;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_history;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_position;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_memory;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_sent;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_presence;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_binding;
DROP TABLE IF EXISTS {schema}.django_anyio_channels_queue;
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_deliver(bytea, bytea, bytea, text, bigint, int, float8);
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_put_job(bytea, bytea[], float8[], int, text);
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_publish_once(
    bytea, text, text, bigint, bigint, bigint, bytea, float8
);
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_commit();
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_publish(bytea[], text[], text[], bigint, bigint, bigint);
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_prune(bytea);
DROP FUNCTION IF EXISTS {schema}.django_anyio_channels_put(bytea, bytea[], float8[], int, text);
