-- Notify, unless that was done under the idempotency key before.
-- Expects parallel arrays: $1 NOTIFY channel, $2 payload; and $3 topic, $4 key, $5 seconds to remember it.
-- Returns one row: how many payloads were notified.
-- Who uses the same key at the same time waits until this commits.
WITH claimed AS MATERIALIZED (
    INSERT INTO {schema}.django_anyio_channels_sent AS sent (place, key, expires)
    VALUES ($3, $4, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $5))
    ON CONFLICT (place, key) DO UPDATE SET expires = excluded.expires
    WHERE sent.expires <= pg_catalog.clock_timestamp()
    RETURNING place
)
SELECT pg_catalog.count(pg_catalog.pg_notify(channel, payload))
FROM claimed CROSS JOIN unnest($1::text[], $2::text[]) AS t(channel, payload)
