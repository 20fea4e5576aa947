-- Read a page of the histories of several topics.
-- Expects parallel arrays: $1 topic, $2 epoch and $3 number of the position after which to read; and for each topic
-- $4 how many entries at most, $5 after how many bytes no other one begins.
-- Returns a row for each entry, in the order of the topics and of the numbers: place of the topic in the arrays, epoch and
-- number of its last message, number of the entry, number before, payload. Where there is no entry that comes after the
-- position, or the epoch is another one, it returns one row with NULL for the entry; and NULL for an unknown topic.
SELECT wanted.n, counter.epoch, counter.last, found.number, found.previous, found.payload
FROM unnest($1::text[]::bytea[], $2::text[], $3::text[]::bigint[]) WITH ORDINALITY AS wanted(topic, epoch, number, n)
LEFT JOIN {schema}.django_anyio_channels_position AS counter ON counter.topic = wanted.topic
LEFT JOIN LATERAL (
    SELECT page.number, page.previous, page.payload FROM (
        SELECT entry.number, entry.previous, entry.payload,
            pg_catalog.sum(pg_catalog.octet_length(entry.payload)) OVER (ORDER BY entry.number)
                - pg_catalog.octet_length(entry.payload)::bigint AS before
        FROM {schema}.django_anyio_channels_history AS entry
        WHERE entry.topic = wanted.topic AND counter.epoch = wanted.epoch AND entry.number > greatest(
            wanted.number,
            (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint - counter.keep_us
        ) ORDER BY entry.number LIMIT $4::int
    ) AS page WHERE page.before < $5::bigint
) AS found ON true
ORDER BY wanted.n, found.number
