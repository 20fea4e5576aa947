-- Prune the history of a topic.
-- Expects $1 topic. Returns one row.
SELECT {schema}.django_anyio_channels_prune($1::bytea)
