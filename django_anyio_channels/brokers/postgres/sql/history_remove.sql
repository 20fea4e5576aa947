-- Remove messages from the history of a topic. Who reads it later finds that something is missing.
-- Expects $1 topic; and parallel arrays: $2 epoch, $3 number.
-- Returns one row: how many there were.
-- What publishes to the topic waits for this, as it counts the messages, too.
WITH counter AS MATERIALIZED (
    SELECT epoch FROM {schema}.django_anyio_channels_position WHERE topic = $1::bytea FOR UPDATE
), removed AS (
    DELETE FROM {schema}.django_anyio_channels_history AS entry
    USING counter JOIN unnest($2::text[], $3::text[]::bigint[]) AS given(epoch, number) ON given.epoch = counter.epoch
    WHERE entry.topic = $1::bytea AND entry.number = given.number
    RETURNING entry.bytes
), counted AS (
    UPDATE {schema}.django_anyio_channels_position SET kept = kept - gone.count, bytes = bytes - gone.size
    FROM (SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(bytes), 0::numeric)::bigint AS size FROM removed) AS gone
    WHERE topic = $1::bytea AND gone.count > 0::bigint
)
SELECT pg_catalog.count(*) FROM removed
