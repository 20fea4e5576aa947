-- Prepare one transaction as session_settings.sql prepares a session: behind a pooler the session is also others'.
-- Expects no parameters; several statements, in a transaction of isolation read committed. Returns nothing.
SET LOCAL synchronous_commit = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL jit = off
