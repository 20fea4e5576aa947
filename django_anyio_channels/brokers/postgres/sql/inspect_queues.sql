-- Look at the queues whose names have a prefix, without changing them.
-- Expects $1 prefix, $2 how many queues at most.
-- Returns a row for each queue that is not empty: the queue, how many messages wait, seconds until the oldest expires.
SELECT queue, pg_catalog.count(*),
    (
        SELECT EXTRACT(epoch FROM oldest.expires - pg_catalog.clock_timestamp())::float8
        FROM {schema}.django_anyio_channels_queue AS oldest
        WHERE oldest.queue = waiting.queue AND oldest.expires > pg_catalog.clock_timestamp()
        ORDER BY oldest.id LIMIT 1
    )
FROM {schema}.django_anyio_channels_queue AS waiting
WHERE pg_catalog.substr(queue, 1, pg_catalog.length($1::bytea)) = $1 AND expires > pg_catalog.clock_timestamp()
GROUP BY queue ORDER BY queue LIMIT $2::int
