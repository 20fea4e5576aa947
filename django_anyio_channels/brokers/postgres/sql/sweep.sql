-- Delete messages and bindings whose time is over, up to 10,000 of each.
-- Expects nothing. Returns no rows.
WITH messages AS (
    DELETE FROM {schema}.django_anyio_channels_queue WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM {schema}.django_anyio_channels_queue
        WHERE expires <= pg_catalog.clock_timestamp() LIMIT 10000 FOR UPDATE SKIP LOCKED
    ))
)
DELETE FROM {schema}.django_anyio_channels_binding WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {schema}.django_anyio_channels_binding
    WHERE ends <= pg_catalog.clock_timestamp() LIMIT 10000 FOR UPDATE SKIP LOCKED
))
