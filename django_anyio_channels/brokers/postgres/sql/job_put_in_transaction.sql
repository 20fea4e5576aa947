-- Append a message that is to outlive a crash to a queue in a transaction of the caller, if there is room, and wake the
-- queue's readers.
-- Expects $1 queue, $2 message, $3 seconds to live, $4 capacity, $5 the queue's NOTIFY channel.
-- Returns one row: 1 if there was room, else 0.
WITH room AS (
    SELECT FROM (
        SELECT FROM {schema}.django_anyio_channels_job
        WHERE source = $1::text::bytea AND expires > pg_catalog.clock_timestamp() LIMIT $4::int
    ) AS waiting HAVING pg_catalog.count(*) < $4::int
), added AS (
    INSERT INTO {schema}.django_anyio_channels_job (source, message, due, expires)
    SELECT $1::text::bytea, $2::text::bytea, pg_catalog.clock_timestamp(),
        pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $3::float8)
    FROM room
    RETURNING id
)
SELECT pg_catalog.count(pg_catalog.pg_notify($5::text, '')) FROM added
