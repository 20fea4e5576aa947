-- Create the function that claims an idempotency key and publishes to a topic with a history, where it does not exist.
-- Expects no parameters; several statements, to be run in one transaction, after those of keys_schema.sql and of
-- history_schema.sql. Any number of sessions may run it at once. Returns nothing of use.
-- Who uses the same key at the same time waits until this commits, and then sees the position.
CREATE OR REPLACE FUNCTION {schema}.django_anyio_channels_publish_once(
    to_topic bytea, channel text, payload text, length bigint, max_bytes bigint, age_us bigint, with_key bytea,
    seconds float8
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $publish_once$
DECLARE
    first_position text;
BEGIN
    INSERT INTO {schema}.django_anyio_channels_sent AS sent (place, key, expires)
        VALUES (to_topic, with_key, clock_timestamp() + make_interval(secs => seconds))
        ON CONFLICT (place, key) DO UPDATE SET expires = excluded.expires, position = NULL
        WHERE sent.expires <= clock_timestamp();
    IF FOUND THEN
        SELECT published INTO first_position FROM {schema}.django_anyio_channels_publish(
            ARRAY[to_topic], ARRAY[channel], ARRAY[payload], length, max_bytes, age_us
        ) AS published;
        UPDATE {schema}.django_anyio_channels_sent AS sent SET position = first_position
            WHERE sent.place = to_topic AND sent.key = with_key;
    ELSE
        SELECT sent.position INTO first_position FROM {schema}.django_anyio_channels_sent AS sent
            WHERE sent.place = to_topic AND sent.key = with_key;
    END IF;
    RETURN first_position;
END
$publish_once$;
