-- Append a message to a queue, unless that was done under the idempotency key before, and wake the queue's readers.
-- Expects $1 queue, $2 the message, $3 its seconds to live, $4 capacity, $5 the queue's NOTIFY channel, $6 key,
-- $7 seconds to remember it; $2 and $3 are arrays of one.
-- Returns a row if it was appended, and none if it had been before. For a full queue it fails with a division by zero,
-- so that the key is not remembered either.
WITH claimed AS MATERIALIZED (
    INSERT INTO {schema}.django_anyio_channels_sent AS sent (place, key, expires)
    VALUES ($1::bytea, $6, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $7))
    ON CONFLICT (place, key) DO UPDATE SET expires = excluded.expires
    WHERE sent.expires <= pg_catalog.clock_timestamp()
    RETURNING place
)
SELECT 1::bigint / {schema}.django_anyio_channels_put(
    $1::bytea, $2::text[]::bytea[], $3::text[]::float8[], $4::int, $5::text
) FROM claimed
