-- Give the layer's role the least rights that presence needs.
-- Expects no parameters, but the role in place of {user}; several statements. Returns nothing.
GRANT USAGE ON SCHEMA {schema} TO {user};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.django_anyio_channels_presence TO {user};
