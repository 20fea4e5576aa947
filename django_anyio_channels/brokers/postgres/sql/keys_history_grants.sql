-- Give the layer's role the right to publish with an idempotency key to a topic with a history, besides those on both.
-- Expects no parameters, but the role in place of {user}; several statements. Returns nothing.
GRANT EXECUTE ON FUNCTION {schema}.django_anyio_channels_publish_once(bytea, text, text, bigint, bigint, bigint, bytea, float8) TO {user};
