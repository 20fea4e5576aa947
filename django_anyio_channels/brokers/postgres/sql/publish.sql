-- Notify while no queue may be bound to any topic.
-- Expects parallel arrays: $1 NOTIFY channel, $2 payload.
-- Returns one row: how many payloads, whether queues may be bound (the table exists).
SELECT pg_catalog.count(pg_catalog.pg_notify(channel, payload)),
    pg_catalog.to_regclass('django_anyio_channels_binding') IS NOT NULL
FROM unnest($1::text[], $2::text[]) AS t(channel, payload)
