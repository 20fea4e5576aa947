-- Make deliveries due at once, and wake the nodes that wait for work of their source.
-- Expects $1 ids, $2 1 if no consumer has had them, else 0, $3 the NOTIFY channel of the source. Returns one row.
WITH released AS (
    UPDATE {schema}.django_anyio_channels_job
    SET due = pg_catalog.clock_timestamp(), deliveries = deliveries - $2::int, node = NULL
    WHERE id = ANY($1::text[]::bigint[])
)
SELECT pg_catalog.pg_notify($3::text, '')
