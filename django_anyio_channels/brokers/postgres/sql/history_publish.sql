-- Publish messages, keep those of topics with a history in it, and notify each with its position, at the commit.
-- Expects parallel arrays: $1 topic, or NULL for what is not kept, $2 NOTIFY channel, $3 payload; and for all topics
-- $4 how many messages are kept, $5 how many bytes, $6 for how many microseconds; and $7 all topics.
-- Returns a row for each payload, in their order: its position or '', and four NULLs; then a row for each binding that has
-- not ended: NULL, topic, queue, capacity, seconds a message lives.
SELECT position, NULL::bytea, NULL::bytea, NULL::int, NULL::float8
FROM {schema}.django_anyio_channels_publish(
    $1::text[]::bytea[], $2::text[], $3::text[], $4::bigint, $5::bigint, $6::bigint
) AS published(position)
UNION ALL
SELECT NULL::text, topic, queue, capacity, expiry FROM {schema}.django_anyio_channels_binding
WHERE topic = ANY($7::text[]::bytea[]) AND ends > pg_catalog.clock_timestamp()
