-- Put records of presence, each in place of the former one with its name and key.
-- Expects parallel arrays: $1 name, $2 key, $3 content; and $4 seconds to keep them. No name and key comes twice.
-- Returns no rows.
-- In one order, so that two of these do not deadlock.
INSERT INTO {schema}.django_anyio_channels_presence AS known (name, key, content, ends)
SELECT name, key, content, pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $4::float8)
FROM unnest($1::text[]::bytea[], $2::text[], $3::text[]::bytea[]) AS t(name, key, content) ORDER BY name, key
ON CONFLICT (name, key) DO UPDATE SET content = excluded.content, ends = excluded.ends
