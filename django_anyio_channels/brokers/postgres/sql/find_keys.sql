-- Find the table of idempotency keys, and who owns it.
-- Expects $1 the schema in which it is.
-- Returns one row: whether it exists; a role that owns it and may not, or NULL. See find_tables.sql.
SELECT sent IS NOT NULL, (
    SELECT relowner::pg_catalog.regrole::text
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS place ON place.oid = relnamespace
    WHERE pg_class.oid = sent::oid AND relowner <> nspowner AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_roles WHERE oid = relowner AND (rolsuper OR rolname = current_user)
    ) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_database WHERE datdba = relowner AND datname = pg_catalog.current_database()
    )
) FROM (
    SELECT pg_catalog.to_regclass(pg_catalog.quote_ident($1::text) || '.django_anyio_channels_sent') AS sent
) AS found
