-- Return the mark of the server's memory, which is another one after a crash that may have taken the last commits back.
-- Expects nothing.
-- Returns one row: the mark.
INSERT INTO {schema}.django_anyio_channels_memory AS memory DEFAULT VALUES
ON CONFLICT (one) DO UPDATE SET one = true
RETURNING memory.mark
