-- Find out which server answers.
-- Expects nothing. Returns one row: whether it is a standby, the process id of this session.
SELECT pg_is_in_recovery(), pg_backend_pid()
