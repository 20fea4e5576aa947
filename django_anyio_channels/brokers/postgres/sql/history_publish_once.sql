-- Publish a message and keep it in the topic's history, unless that was done under the idempotency key before.
-- Expects $1 topic, $2 NOTIFY channel, $3 payload, $4 how many messages are kept, $5 how many bytes, $6 for how many
-- microseconds, $7 key, $8 seconds to remember it.
-- Returns one row: the position of the message, as the first call returned it; NULL if that kept no message.
SELECT {schema}.django_anyio_channels_publish_once(
    $1::bytea, $2::text, $3::text, $4::bigint, $5::bigint, $6::bigint, $7::bytea, $8::float8
)
