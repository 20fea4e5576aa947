-- Give the layer's role the least rights that histories need.
-- Expects no parameters, but the role in place of {user}; several statements. Returns nothing.
GRANT USAGE ON SCHEMA {schema} TO {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.django_anyio_channels_position TO {user};
GRANT SELECT, INSERT, DELETE ON {schema}.django_anyio_channels_history TO {user};
GRANT SELECT, INSERT, DELETE ON {schema}.django_anyio_channels_outbox TO {user};
GRANT SELECT, INSERT, UPDATE ON {schema}.django_anyio_channels_memory TO {user};
GRANT EXECUTE ON FUNCTION {schema}.django_anyio_channels_prune(bytea) TO {user};
GRANT EXECUTE ON FUNCTION {schema}.django_anyio_channels_publish(bytea[], text[], text[], bigint, bigint, bigint) TO {user};
