-- Publish messages, keep those of topics with a history in it, and notify each with its position, at the commit.
-- Expects parallel arrays: $1 topic, or NULL for what is not kept, $2 NOTIFY channel, $3 payload; and for all topics
-- $4 how many messages are kept, $5 how many bytes, $6 for how many microseconds.
-- Returns a row for each payload, in their order: its position or '', whether queues may be bound (the table exists).
SELECT position, pg_catalog.to_regclass('django_anyio_channels_binding') IS NOT NULL
FROM {schema}.django_anyio_channels_publish(
    $1::text[]::bytea[], $2::text[], $3::text[], $4::bigint, $5::bigint, $6::bigint
) AS published(position)
