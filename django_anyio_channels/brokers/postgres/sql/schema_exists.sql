-- Check that everything is there that schema.sql creates; a part of it may have been dropped.
-- Expects nothing. Returns one row: boolean.
SELECT to_regclass('django_anyio_channels_queue') IS NOT NULL
    AND to_regclass('django_anyio_channels_binding') IS NOT NULL
    AND to_regprocedure('django_anyio_channels_put(bytea, bytea[], float8[], int, text)') IS NOT NULL
