-- Notify, and look up the queues that are bound to the topics.
-- Expects parallel arrays: $1 NOTIFY channel, $2 payload; and $3 the topics.
-- Returns a row for each binding that has not ended: topic, queue, capacity, seconds a message lives. Where there is
-- none it returns one row of NULLs.
WITH sent AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.pg_notify(channel, payload))
    FROM unnest($1::text[], $2::text[]) AS t(channel, payload)
)
SELECT topic, queue, capacity, expiry FROM sent LEFT JOIN {schema}.django_anyio_channels_binding
ON topic = ANY($3::text[]::bytea[]) AND ends > pg_catalog.clock_timestamp()
