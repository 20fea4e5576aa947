-- Put messages that take.sql removed back to their places, and wake the readers of their queues.
-- Expects parallel arrays: $1 queue, $2 id, $3 message, $4 expires; and $5 the NOTIFY channels of the queues.
-- Returns a row for each channel.
WITH back AS (
    INSERT INTO {schema}.django_anyio_channels_queue (queue, id, message, expires)
    SELECT * FROM unnest(
        $1::text[]::bytea[], $2::text[]::bigint[], $3::text[]::bytea[], $4::text[]::timestamptz[]
    ) ON CONFLICT DO NOTHING
) SELECT pg_catalog.pg_notify(wake, '') FROM pg_catalog.unnest($5::text[]) AS wakes(wake)
