-- Forget the idempotency keys of topics and queues whose names have a prefix.
-- Expects $1 prefix. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_sent
WHERE pg_catalog.substr(place, 1, pg_catalog.length($1::bytea)) = $1
