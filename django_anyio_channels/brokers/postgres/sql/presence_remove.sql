-- Remove records of presence.
-- Expects parallel arrays: $1 name, $2 key. Returns no rows.
DELETE FROM {schema}.django_anyio_channels_presence WHERE ctid = ANY(ARRAY(
    SELECT found.ctid FROM unnest($1::text[]::bytea[], $2::text[]) AS gone(name, key), LATERAL (
        SELECT known.ctid FROM {schema}.django_anyio_channels_presence AS known
        WHERE known.name = gone.name AND known.key = gone.key FOR UPDATE
    ) AS found ORDER BY gone.name, gone.key
))
