-- Count the messages in the histories of the topics whose names have a prefix.
-- Expects $1 prefix. Returns a row for each topic with a message: topic, how many.
SELECT counter.topic, pg_catalog.count(*)
FROM {schema}.django_anyio_channels_position AS counter
JOIN {schema}.django_anyio_channels_history AS entry ON entry.topic = counter.topic
WHERE pg_catalog.substr(counter.topic, 1, pg_catalog.length($1::bytea)) = $1
    AND entry.number > (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint - counter.keep_us
GROUP BY counter.topic
