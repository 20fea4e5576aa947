-- Prune the histories of up to 1,000 topics whose oldest messages are too old.
-- Expects nothing. Returns one row: how many.
-- Positions that are being counted up are skipped: whoever does that prunes, too.
SELECT pg_catalog.count({schema}.django_anyio_channels_prune(topic)) FROM (
    SELECT topic FROM {schema}.django_anyio_channels_position
    WHERE kept > 0::bigint
        AND oldest < (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint - keep_us
    LIMIT 1000 FOR UPDATE SKIP LOCKED
) AS old
