-- Prepare a session for all other statements, which rely on these settings.
-- Expects no parameters; several statements. Returns nothing.
-- * What is notified or queued does not outlive a crash anyway, so no commit need wait for the disk.
-- * What the planner knows of a queue's size is outdated at once. Only an index in its order passes quickly over what
--   has been taken, and a plan per call would cost more than to follow it.
-- * Before PostgreSQL 18 a plan with something that is off and yet needed counts as so dear that it would be compiled
--   each time.
SET default_transaction_isolation = 'read committed';
SET synchronous_commit = off;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_sort = off;
SET plan_cache_mode = force_generic_plan;
SET jit = off
