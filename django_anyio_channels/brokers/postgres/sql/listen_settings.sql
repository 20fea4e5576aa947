-- Have the server end a session whose client reads no more, before its notifications fill the server's queue of them.
-- Expects nothing. Returns one row: what is set.
-- It does not override what is set already, and has no effect over a Unix socket.
SELECT pg_catalog.set_config('tcp_user_timeout', '30s', false)
WHERE pg_catalog.current_setting('tcp_user_timeout') = '0'
