-- Count the sessions in this database that hold a shared advisory lock.
-- Expects $1 the key of the lock.
-- Returns one row: the number.
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND (classid::bigint << 32 | objid::bigint) = $1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
