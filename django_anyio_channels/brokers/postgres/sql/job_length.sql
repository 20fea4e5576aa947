-- Count the messages of an acknowledged queue.
-- Expects $1 queue. Returns one row: how many wait for their first delivery, how many were delivered.
SELECT (
    SELECT pg_catalog.count(*) FROM {schema}.django_anyio_channels_queue
    WHERE queue = $1::bytea AND expires > pg_catalog.clock_timestamp()
) + pg_catalog.count(*) FILTER (WHERE expires > pg_catalog.clock_timestamp()),
    pg_catalog.count(*) FILTER (WHERE expires IS NULL)
FROM {schema}.django_anyio_channels_job WHERE source = $1::bytea
