-- Empty the queues whose names have a prefix and end their bindings.
-- Expects $1 prefix. Returns no rows.
WITH messages AS (
    DELETE FROM {schema}.django_anyio_channels_queue
    WHERE pg_catalog.substr(queue, 1, pg_catalog.length($1::bytea)) = $1
)
DELETE FROM {schema}.django_anyio_channels_binding
WHERE pg_catalog.substr(queue, 1, pg_catalog.length($1::bytea)) = $1
