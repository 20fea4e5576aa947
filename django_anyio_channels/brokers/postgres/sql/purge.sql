-- Empty the queues whose names have a prefix, end their bindings, and remove the records of presence of such names.
-- Expects $1 prefix. Returns no rows.
WITH messages AS (
    DELETE FROM {schema}.django_anyio_channels_queue
    WHERE pg_catalog.substr(queue, 1, pg_catalog.length($1::bytea)) = $1
), presence AS (
    DELETE FROM {schema}.django_anyio_channels_presence
    WHERE pg_catalog.substr(name, 1, pg_catalog.length($1::bytea)) = $1
)
DELETE FROM {schema}.django_anyio_channels_binding
WHERE pg_catalog.substr(queue, 1, pg_catalog.length($1::bytea)) = $1
