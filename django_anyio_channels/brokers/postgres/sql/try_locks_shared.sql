-- Hold shared advisory locks until the session ends, as far as no other session holds one exclusively.
-- Expects $1 the keys.
-- Returns a row for each lock that is not held: its key.
SELECT key FROM pg_catalog.unnest($1::text[]::bigint[]) AS keys(key)
WHERE NOT pg_catalog.pg_try_advisory_lock_shared(key)
