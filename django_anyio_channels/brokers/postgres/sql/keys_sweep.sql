-- Delete idempotency keys whose time is over, up to 10,000.
-- Expects nothing. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_sent WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {schema}.django_anyio_channels_sent
    WHERE expires <= pg_catalog.clock_timestamp() LIMIT 10000 FOR UPDATE SKIP LOCKED
))
