-- Append messages to one queue, as many as its capacity allows, and wake its readers.
-- Expects $1 queue, $2 messages, $3 their seconds to live, $4 capacity, $5 the queue's NOTIFY channel.
-- Returns one row: how many of the first messages were accepted.
SELECT {schema}.django_anyio_channels_put($1::bytea, $2::text[]::bytea[], $3::text[]::float8[], $4::int, $5::text)
