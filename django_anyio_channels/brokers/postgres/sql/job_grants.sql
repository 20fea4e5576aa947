-- Give the layer's role the least rights that acknowledged work needs, besides those on queues and histories.
-- Expects no parameters, but the role in place of {user}; several statements. Returns nothing.
GRANT USAGE ON SCHEMA {schema} TO {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.django_anyio_channels_job TO {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.django_anyio_channels_cursor TO {user};
GRANT EXECUTE ON FUNCTION {schema}.django_anyio_channels_put_job(bytea, bytea[], float8[], int, text) TO {user};
GRANT EXECUTE ON FUNCTION {schema}.django_anyio_channels_deliver(bytea, bytea, bytea, text, bigint, int, float8) TO {user};
