"""``"database": "default"``: an alias of Django's DATABASES as the arguments of the PostgreSQL layer."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

from anyio import to_thread
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from ...core.hints import did_you_mean
from ..settings import ConfigError

_CLOSE_TIMEOUT = 30.0

_OF_PSYCOPG = frozenset({"client_encoding", "context", "cursor_factory", "prepare_threshold", "row_factory"})
"""How psycopg sends statements and returns rows. ``pool``, ``isolation_level`` and the like Django keeps to itself."""


def _unusable(message: str, hint: str) -> ConfigError:
    return ConfigError(message, hint=hint, code="E008")


def layer_arguments(alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `PostgreSQLChannelLayer` for the present database of an alias; ``options`` override them.

    During tests that is the test database. Django's backend is asked for the user and the password again for each new
    connection, since they may expire. Raises `ConfigError`.
    """
    for name in sorted({"url", "host", "port", "database", "user", "password", "credentials"} & set(options)):
        raise _unusable(
            f"CONFIG has 'database' and 'options' with {name!r}, which contradict each other.",
            f"Give {name!r} in DATABASES[{alias!r}], or 'url' instead of 'database'.",
        )
    parameters = _connection_parameters(alias)
    password = parameters.pop("password", None)

    async def credentials() -> tuple[str | None, str | None]:
        latest = await to_thread.run_sync(_connection_parameters, alias, abandon_on_cancel=True)
        return latest.get("user"), latest.get("password")

    url = f"postgresql://?{urlencode(sorted(parameters.items()))}"
    return {"url": url, "password": password, "credentials": credentials, **options}


def unusable_database(alias: str, error: ValueError) -> ConfigError:
    """Return the error for an alias that the layer refuses."""
    return _unusable(
        f"DATABASES[{alias!r}] cannot be used: {error}.",
        "Remove it if Django does not need it, or set 'url' instead of 'database'.",
    )


def _connection_parameters(alias: str) -> dict[str, str]:
    """Return libpq's parameters from Django's own backend, so that a backend that fetches passwords is asked."""
    if alias not in connections.settings:
        # Not what stands there: it may be a URL with a password.
        known = f"The aliases are {', '.join(sorted(connections.settings))}. A URL belongs under 'url'."
        raise _unusable(
            "CONFIG['database'] is not an alias of DATABASES.",
            did_you_mean(alias, connections.settings, otherwise=known),
        )
    try:
        connection = connections.create_connection(alias)
        if connection.vendor == "postgresql":
            parameters = connection.get_connection_params()
    except ImproperlyConfigured as error:
        raise _unusable(
            f"CONFIG['database'] is {alias!r}, whose entry in DATABASES cannot be used: {error}",
            f"Correct DATABASES[{alias!r}].",
        ) from error
    if connection.vendor != "postgresql":
        raise _unusable(
            f"CONFIG['database'] is {alias!r}, but DATABASES[{alias!r}]['ENGINE'] is "
            f"{connection.settings_dict['ENGINE']!r}, which is not PostgreSQL.",
            "Name an alias whose ENGINE is 'django.db.backends.postgresql', or choose another broker by 'url'.",
        )
    parameters = {**parameters, "role": connection.settings_dict["OPTIONS"].get("assume_role")}
    return {name: str(value) for name, value in parameters.items() if value is not None and name not in _OF_PSYCOPG}


class _Nodes(Protocol):
    """What has connections to a database."""

    def close_all(self, timeout: float) -> None: ...


_nodes: weakref.WeakSet[_Nodes] = weakref.WeakSet()


def close_before_teardown(nodes: _Nodes) -> None:
    """Close all nodes before Django creates, clones or drops a database, which fails while a connection to it is open.

    That ends with the nodes, not with their layer: Channels may have dropped the layer, and they are still closing.
    """
    _nodes.add(nodes)


@receiver(connection_created)
def _close_nodes(sender: object, connection: Any, **kwargs: object) -> None:
    # These are all that Django opens a connection without a database for.
    if connection.alias == NO_DB_ALIAS and connection.vendor == "postgresql":
        for nodes in list(_nodes):
            nodes.close_all(_CLOSE_TIMEOUT)
