-- Do what history_publish.sql does, for one message to a topic that has a position, in half of the time.
-- Expects $1 topic, $2 NOTIFY channel, $3 payload, $4 how many messages are kept, $5 how many bytes, $6 for how many
-- microseconds.
-- Returns a row for each binding that has not ended, or else one with NULLs: position, whether the topic is to be pruned,
-- topic, queue, capacity, seconds a message lives. Returns no rows, and does nothing, for a topic without a position.
WITH counter AS (
    UPDATE {schema}.django_anyio_channels_position AS counter SET
        before = last,
        last = greatest(
            (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint, last + 1::bigint
        ),
        kept = kept + 1::bigint,
        bytes = bytes + size,
        keep_length = $4::bigint,
        keep_bytes = $5::bigint,
        keep_us = $6::bigint
    FROM (VALUES (CASE
        WHEN pg_catalog.octet_length($3::text)::bigint >= $5::bigint / 4::bigint / $4::bigint
        THEN pg_catalog.octet_length($3::text)::bigint ELSE 0::bigint
    END)) AS counted(size)
    WHERE counter.topic = $1::bytea
    RETURNING counter.topic, counter.epoch, counter.before, counter.last, counted.size,
        counter.kept > $4::bigint + $4::bigint / 8::bigint
        OR counter.bytes > $5::bigint - $5::bigint / 4::bigint
        OR counter.oldest < counter.last - $6::bigint - $6::bigint / 8::bigint AS is_full
), entry AS (
    INSERT INTO {schema}.django_anyio_channels_history (topic, number, previous, bytes, payload)
    SELECT topic, last, before, size, $3::text FROM counter
), sent AS MATERIALIZED (
    SELECT topic, is_full, position, pg_catalog.pg_notify($2::text, pg_catalog.concat(
        position, ' ', before / 1000::bigint, '-', before % 1000::bigint, E'\n',
        CASE WHEN pg_catalog.octet_length($3::text) <= 7900 THEN $3::text END
    )) FROM (
        SELECT *, pg_catalog.concat(epoch, '-', last / 1000::bigint, '-', last % 1000::bigint) AS position FROM counter
    ) AS named
)
SELECT position, is_full, bound.topic, bound.queue, bound.capacity, bound.expiry
FROM sent LEFT JOIN {schema}.django_anyio_channels_binding AS bound
ON bound.topic = sent.topic AND bound.ends > pg_catalog.clock_timestamp()
