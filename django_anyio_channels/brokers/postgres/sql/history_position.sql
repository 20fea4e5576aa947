-- Return the position of a topic's last message, and keep it for those who come back with it.
-- Expects $1 topic, $2 how many messages are kept, $3 how many bytes, $4 for how many microseconds.
-- Returns one row: epoch, number.
INSERT INTO {schema}.django_anyio_channels_position AS counter
    (topic, epoch, before, last, oldest, touched, kept, bytes, keep_length, keep_bytes, keep_us)
SELECT $1::bytea, pg_catalog.left(pg_catalog.gen_random_uuid()::text, 8), 0, 0, now_us, now_us, 0, 0,
    $2::bigint, $3::bigint, $4::bigint
FROM (VALUES ((extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint)) AS clock(now_us)
ON CONFLICT (topic) DO UPDATE SET touched = excluded.touched
RETURNING counter.epoch, counter.last
