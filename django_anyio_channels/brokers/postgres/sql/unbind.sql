-- End the binding of a queue to a topic, if there is one.
-- Expects $1 topic, $2 queue. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_binding WHERE topic = $1 AND queue = $2
