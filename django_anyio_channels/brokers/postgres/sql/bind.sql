-- Bind a queue to a topic, or prolong and change the binding.
-- Expects $1 topic, $2 queue, $3 capacity, $4 seconds a message lives, $5 seconds the binding lasts. Returns no rows.
INSERT INTO {schema}.django_anyio_channels_binding (topic, queue, capacity, expiry, ends)
VALUES ($1, $2, $3, $4, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $5))
ON CONFLICT (topic, queue) DO UPDATE SET capacity = excluded.capacity, expiry = excluded.expiry, ends = excluded.ends
