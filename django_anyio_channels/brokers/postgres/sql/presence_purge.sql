-- Remove the records of presence of names that have a prefix.
-- Expects $1 prefix. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_presence
WHERE pg_catalog.substr(name, 1, pg_catalog.length($1::bytea)) = $1
