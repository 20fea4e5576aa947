-- Forget the positions of up to 10,000 topics to which nothing was published for 30 days longer than it is kept.
-- Expects nothing. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_position WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {schema}.django_anyio_channels_position
    WHERE kept = 0::bigint AND greatest(last, touched) + keep_us
        < (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint - 2592000000000::bigint
    LIMIT 10000 FOR UPDATE SKIP LOCKED
))
