-- Find out how the server is set up, as far as every role may know.
-- Expects nothing.
-- Returns one row: whether this connection is encrypted, the address that it comes from or '' for a Unix socket; the
-- version and its number, the clock in seconds since 1970, how many connections there are and may be, how full the queue
-- of notifications is (0 to 1), whether autovacuum is on, ms after which idle sessions end (0 for never), the role, and
-- whether it is a superuser.
SELECT coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()), false),
    coalesce(pg_catalog.host(pg_catalog.inet_client_addr()), ''),
    pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp())::float8,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
    pg_catalog.current_setting('max_connections')::int,
    pg_catalog.pg_notification_queue_usage(),
    pg_catalog.current_setting('autovacuum')::boolean,
    coalesce((SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'), 0),
    pg_catalog.quote_ident(current_user),
    coalesce((SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), false)
