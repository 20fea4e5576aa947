-- Append messages that are to outlive a crash to several queues, as many to each as its capacity allows, and wake their
-- readers.
-- Expects parallel arrays, an element for each message: $1 queue, $2 message, $3 seconds to live, $5 the queue's NOTIFY
-- channel; and $4 the capacity of every queue.
-- Returns a row for each queue: the queue, how many of its first messages were accepted.
-- The queues are locked in their order, so that two of these do not deadlock.
SELECT queue, {schema}.django_anyio_channels_put_job(queue, messages, expiries, $4::int, wake) FROM (
    SELECT queue, wake, pg_catalog.array_agg(message ORDER BY n) AS messages,
        pg_catalog.array_agg(expiry ORDER BY n) AS expiries
    FROM unnest($1::text[]::bytea[], $2::text[]::bytea[], $3::text[]::float8[], $5::text[])
    WITH ORDINALITY AS t(queue, message, expiry, wake, n)
    GROUP BY queue, wake ORDER BY queue OFFSET 0
) AS t
