-- End deliveries.
-- Expects $1 ids. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_job WHERE id = ANY($1::text[]::bigint[])
