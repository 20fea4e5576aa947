-- Read the last entries of a topic's history.
-- Expects $1 topic, $2 how many at most.
-- Returns a row for each, the newest first: epoch, number, payload.
SELECT counter.epoch, entry.number, entry.payload
FROM {schema}.django_anyio_channels_position AS counter
JOIN {schema}.django_anyio_channels_history AS entry ON entry.topic = counter.topic
WHERE counter.topic = $1::bytea AND entry.topic = $1::bytea
    AND entry.number > (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint - counter.keep_us
ORDER BY entry.number DESC LIMIT $2::bigint
