-- Publish messages when the transaction of the caller commits.
-- Expects parallel arrays: $1 topic, or NULL for what is not kept, $2 NOTIFY channel, $3 payload; and for all topics
-- $4 how many messages are kept, $5 how many bytes, $6 for how many microseconds.
-- Returns a row for each payload.
INSERT INTO {schema}.django_anyio_channels_outbox (topic, channel, payload, keep_length, keep_bytes, keep_us)
SELECT topic, channel, payload, $4::bigint, $5::bigint, $6::bigint
FROM unnest($1::text[]::bytea[], $2::text[], $3::text[]) AS t(topic, channel, payload)
RETURNING id
