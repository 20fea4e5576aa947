-- Find the tables and the function that schema.sql creates, and who owns them; a part of them may have been dropped.
-- Expects nothing.
-- Returns one row: the schema of the search_path where they are, or else where they would be created, or ''; whether all
-- of them exist; a role that owns one and may not, or NULL; whether this role may read the bindings, or NULL where there
-- are none; this role. Names of roles are quoted.
-- Whoever owns a table or a function has it run code with the rights of those who use it. That may be this role, and
-- those who have power over it anyway: the owner of the schema, that of the database, and superusers.
-- Both sides of an operator have the very types of one in pg_catalog: with others, one that another role has created in
-- the search_path would fit better, and run its function with the rights of this role.
-- What exists is asked of functions: in a transaction with an older snapshot the catalogs do not have all of it.
SELECT coalesce(nspname::text, ''),
    queue IS NOT NULL AND binding IS NOT NULL AND presence IS NOT NULL AND put IS NOT NULL,
    (
        SELECT pg_catalog.min(owner::pg_catalog.regrole::text) FROM (
            SELECT relowner FROM pg_catalog.pg_class WHERE oid IN (queue::oid, binding::oid, presence::oid)
            UNION ALL
            SELECT proowner FROM pg_catalog.pg_proc WHERE oid = put::oid
        ) AS object(owner) WHERE owner <> nspowner AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_roles WHERE oid = owner AND (rolsuper OR rolname = current_user)
        ) AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_database WHERE datdba = owner AND datname = pg_catalog.current_database()
        )
    ),
    pg_catalog.has_table_privilege(binding, 'SELECT'),
    pg_catalog.quote_ident(current_user)
FROM (VALUES (NULL)) AS one LEFT JOIN pg_catalog.pg_namespace AS place ON place.oid = coalesce(
    (
        SELECT relnamespace FROM pg_catalog.pg_class
        WHERE oid = pg_catalog.to_regclass('django_anyio_channels_queue')::oid
    ), (
        SELECT relnamespace FROM pg_catalog.pg_class
        WHERE oid = pg_catalog.to_regclass('django_anyio_channels_binding')::oid
    ),
    (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = pg_catalog.current_schema())
) CROSS JOIN LATERAL (
    SELECT pg_catalog.quote_ident(nspname) || '.django_anyio_channels_' AS prefix
) AS named CROSS JOIN LATERAL (
    SELECT pg_catalog.to_regclass(prefix || 'queue') AS queue, pg_catalog.to_regclass(prefix || 'binding') AS binding,
        pg_catalog.to_regclass(prefix || 'presence') AS presence,
        pg_catalog.to_regprocedure(prefix || 'put(bytea, bytea[], float8[], int, text)') AS put
) AS found
