-- Forget the histories of the topics whose names have a prefix, and their positions.
-- Expects $1 prefix. Returns no rows.
WITH positions AS (
    DELETE FROM {schema}.django_anyio_channels_position
    WHERE pg_catalog.substr(topic, 1, pg_catalog.length($1::bytea)) = $1
)
DELETE FROM {schema}.django_anyio_channels_history
WHERE pg_catalog.substr(topic, 1, pg_catalog.length($1::bytea)) = $1
