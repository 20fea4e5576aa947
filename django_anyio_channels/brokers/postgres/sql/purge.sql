-- Empty the queues whose names have a prefix, and end their bindings.
-- Expects $1 prefix. Returns no rows.
WITH messages AS (DELETE FROM django_anyio_channels_queue WHERE substr(queue, 1, length($1::bytea)) = $1)
DELETE FROM django_anyio_channels_binding WHERE substr(queue, 1, length($1::bytea)) = $1
