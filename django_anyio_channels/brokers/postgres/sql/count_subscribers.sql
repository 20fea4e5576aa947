-- Count the sessions in this database that hold a shared advisory lock; one that holds it exclusively is no node.
-- Expects $1 the key of the lock.
-- Returns one row: the number.
SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND mode = 'ShareLock' AND objsubid = 1 AND granted
AND (classid::bigint << 32 | objid::bigint) = $1
AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
