-- Find out which server answers.
-- Expects nothing.
-- Returns one row: whether it is a standby, the process id of this session, whether its transactions only read.
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid(),
    pg_catalog.current_setting('default_transaction_read_only')::boolean
