-- Drop the work of the queues, and of the topics, whose names have a prefix, and forget their consumer groups.
-- Expects $1 prefix. Returns no rows.
WITH cursors AS (
    DELETE FROM {schema}.django_anyio_channels_cursor
    WHERE pg_catalog.substr(topic, 1, pg_catalog.length($1::bytea)) = $1
)
DELETE FROM {schema}.django_anyio_channels_job
WHERE pg_catalog.substr(source, 1, pg_catalog.length($1::bytea)) = $1
