-- Count the messages that wait in a queue; its primary key leads to them.
-- Expects $1 queue. Returns one row: how many.
SELECT pg_catalog.count(*) FROM {schema}.django_anyio_channels_queue
WHERE queue = $1::bytea AND expires > pg_catalog.clock_timestamp()
