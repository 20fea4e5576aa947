"""The tables of a layer on PostgreSQL by a migration, where the layer's own role may not create any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.exceptions import MissingDriver, NotSupported

try:
    from django.db import router
    from django.db.migrations.operations.base import Operation
except ModuleNotFoundError as error:
    raise MissingDriver("Migrations need Django: pip install django-anyio-channels[django]") from error

from .configuration.factory import table_definitions


class CreateChannelTables(Operation):
    """Create all tables and functions of a layer on PostgreSQL in the current schema, or leave those that are there.

    ``roles`` are given the rights that a layer needs. Whoever runs the migration owns the tables; a layer of another
    role uses them if that is the owner of the schema or of the database, or a superuser. On other databases, and where
    a router says so, nothing is done. To reverse it drops the tables, with what is in them.
    """

    reduces_to_sql = True
    reversible = True
    atomic = True

    def __init__(self, roles: Sequence[str] = ()) -> None:
        self.roles = roles

    def state_forwards(self, app_label: str, state: object) -> None:
        """No model has these tables."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: object, to_state: object) -> None:
        self._run(app_label, schema_editor, forwards=True)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: object, to_state: object) -> None:
        self._run(app_label, schema_editor, forwards=False)

    def describe(self) -> str:
        return "Create the tables of the channel layer"

    def _run(self, app_label: str, schema_editor: Any, *, forwards: bool) -> None:
        connection = schema_editor.connection
        if connection.vendor != "postgresql" or not router.allow_migrate(connection.alias, app_label):
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_schema()")
            ((schema,),) = cursor.fetchall()
        if schema is None:
            raise NotSupported("The search_path of this connection names no schema that exists")
        create, drop = table_definitions(schema, self.roles)
        schema_editor.execute(f"{create}\nSET LOCAL lock_timeout TO DEFAULT" if forwards else drop, params=None)
