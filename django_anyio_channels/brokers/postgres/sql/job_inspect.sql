-- Look at the acknowledged queues whose names have a prefix, without changing them.
-- Expects $1 prefix, $2 how many queues at most.
-- Returns a row for each queue that is not empty: the queue, how many messages wait for their first delivery, seconds
-- until the first of them expires, how many were delivered. The zero byte is in the sources of consumer groups only.
SELECT source, pg_catalog.count(expires),
    EXTRACT(epoch FROM pg_catalog.min(expires) - pg_catalog.clock_timestamp())::float8,
    pg_catalog.count(*) - pg_catalog.count(expires)
FROM {schema}.django_anyio_channels_job
WHERE pg_catalog.substr(source, 1, pg_catalog.length($1::bytea)) = $1
    AND pg_catalog."position"(source, '\x00'::bytea) = 0
    AND (expires IS NULL OR expires > pg_catalog.clock_timestamp())
GROUP BY source ORDER BY source LIMIT $2::int
