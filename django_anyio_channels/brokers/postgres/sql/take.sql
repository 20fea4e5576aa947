-- Remove the oldest messages of several queues.
-- Expects parallel arrays: $1 queue, $2 how many messages at most.
-- Returns a row for each message, in no order: queue, id, message, expires. No message is returned twice.
DELETE FROM {schema}.django_anyio_channels_queue WHERE ctid = ANY(ARRAY(
    SELECT found.ctid FROM unnest($1::text[]::bytea[], $2::text[]::int[]) AS wanted(queue, count), LATERAL (
        SELECT waiting.ctid FROM {schema}.django_anyio_channels_queue AS waiting
        WHERE waiting.queue = wanted.queue AND waiting.expires > pg_catalog.clock_timestamp()
        ORDER BY waiting.id LIMIT wanted.count FOR UPDATE SKIP LOCKED
    ) AS found
)) RETURNING queue, id, message, expires
