-- Find the tables and the functions that a schema creates, and who owns them; a part of them may have been dropped.
-- Expects $1 the names of the tables and $2 the functions with their arguments, each behind django_anyio_channels_.
-- Returns one row: the schema of the search_path where they are, or else where they would be created, or ''; whether all
-- of them exist; a role that owns one and may not, or NULL; whether this role may read the bindings, or NULL where there
-- are none; this role. Names of roles are quoted.
-- Whoever owns a table or a function has it run code with the rights of those who use it. That may be this role, and
-- those who have power over it anyway: the owner of the schema, that of the database, and superusers.
-- Both sides of an operator have the very types of one in pg_catalog: with others, one that another role has created in
-- the search_path would fit better, and run its function with the rights of this role.
-- All tables of this package's are in one schema, where there is one already.
-- What exists is asked of functions: in a transaction with an older snapshot the catalogs do not have all of it.
SELECT coalesce(nspname::text, ''),
    are_complete,
    (
        SELECT pg_catalog.min(owner::pg_catalog.regrole::text) FROM (
            SELECT relowner FROM pg_catalog.pg_class WHERE oid = ANY(tables)
            UNION ALL
            SELECT proowner FROM pg_catalog.pg_proc WHERE oid = ANY(functions)
        ) AS object(owner) WHERE owner <> nspowner AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_roles WHERE oid = owner AND (rolsuper OR rolname = current_user)
        ) AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_database WHERE datdba = owner AND datname = pg_catalog.current_database()
        )
    ),
    pg_catalog.has_table_privilege(pg_catalog.to_regclass(prefix || 'binding'), 'SELECT'),
    pg_catalog.quote_ident(current_user)
FROM (VALUES (NULL)) AS one LEFT JOIN pg_catalog.pg_namespace AS place ON place.oid = coalesce(
    (
        SELECT relnamespace
        FROM pg_catalog.unnest(pg_catalog.array_cat($1::text[], ARRAY['queue', 'position']::text[]))
        WITH ORDINALITY AS named(name, n)
        JOIN pg_catalog.pg_class ON pg_class.oid = pg_catalog.to_regclass('django_anyio_channels_' || name)::oid
        ORDER BY n LIMIT 1
    ),
    (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = pg_catalog.current_schema())
) CROSS JOIN LATERAL (
    SELECT pg_catalog.quote_ident(nspname) || '.django_anyio_channels_' AS prefix
) AS named CROSS JOIN LATERAL (
    SELECT ARRAY(SELECT pg_catalog.to_regclass(prefix || name)::oid FROM pg_catalog.unnest($1::text[]) AS t(name)) AS tables,
        ARRAY(SELECT pg_catalog.to_regprocedure(prefix || name)::oid FROM pg_catalog.unnest($2::text[]) AS f(name))
            AS functions
) AS found CROSS JOIN LATERAL (
    SELECT nspname IS NOT NULL AND pg_catalog.array_position(tables, NULL::oid) IS NULL
        AND pg_catalog.array_position(functions, NULL::oid) IS NULL AS are_complete
) AS checked
