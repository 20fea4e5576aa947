-- Drop up to 10,000 messages that have expired before their first delivery, or that were due for a day and nobody asked
-- for; and forget consumer groups that nobody was in for a day longer than the history is kept.
-- Expects $1 for how many microseconds the history is kept. Returns no rows.
WITH cursors AS (
    DELETE FROM {schema}.django_anyio_channels_cursor
    WHERE touched < pg_catalog.clock_timestamp()
        - pg_catalog.make_interval(days => 1, secs => $1::bigint::float8 / 1000000::float8)
)
DELETE FROM {schema}.django_anyio_channels_job WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {schema}.django_anyio_channels_job
    WHERE coalesce(expires, due + pg_catalog.make_interval(days => 1)) < pg_catalog.clock_timestamp()
    LIMIT 10000 FOR UPDATE SKIP LOCKED
))
