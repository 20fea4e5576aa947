-- Read the records of presence of a name.
-- Expects $1 name. Returns a row for each: key, content.
SELECT key, content FROM {schema}.django_anyio_channels_presence
WHERE name = $1 AND ends > pg_catalog.clock_timestamp()
