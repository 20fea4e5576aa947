-- Give the layer's role the least rights that normal channels need.
-- Expects no parameters, but the role in place of {user}; several statements. Returns nothing.
GRANT USAGE ON SCHEMA {schema} TO {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.django_anyio_channels_queue TO {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.django_anyio_channels_binding TO {user};
GRANT EXECUTE ON FUNCTION {schema}.django_anyio_channels_put(bytea, bytea[], float8[], int, text) TO {user};
