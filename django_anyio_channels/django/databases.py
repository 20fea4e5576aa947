"""``"database": "default"``: an alias of Django's DATABASES as the arguments of the PostgreSQL layer."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from ..core.hints import did_you_mean
from .settings import ConfigError

_CLOSE_TIMEOUT = 30.0

_IN_THE_URL = frozenset(
    {
        *("passfile", "service", "servicefile", "target_session_attrs", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    }
)
"""Parameters that asyncpg reads as libpq does."""

_SERVER_SETTINGS = {"application_name": "application_name", "options": "options", "assume_role": "role"}
"""Parameters that are settings of the server."""

_IGNORED = frozenset(
    {
        # How psycopg sends statements and returns rows.
        *("client_encoding", "context", "cursor_factory", "prepare_threshold", "row_factory"),
        # The layer's own probes notice a dead connection sooner.
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    }
)
"""Parameters without a meaning for the layer's connection. ``pool``, ``isolation_level`` and the like Django keeps."""

_WITHOUT_EFFECT = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
}
"""Features that asyncpg lacks, with the values that do without them."""

_ADDRESS = {"host": "host", "port": "port", "dbname": "database", "user": "user", "password": "password"}
"""Parameters that are arguments of the layer. With several hosts, ``host`` and ``port`` are lists."""


def _unusable(message: str, hint: str) -> ConfigError:
    return ConfigError(message, hint=hint, code="E008")


def layer_arguments(alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `PostgreSQLChannelLayer` for the present database of an alias; ``options`` override them.

    During tests that is the test database. Raises `ConfigError`.
    """
    for name in sorted({"url", *_ADDRESS.values()} & set(options)):
        raise _unusable(
            f"CONFIG has 'database' and 'options' with {name!r}, which contradict each other.",
            f"Give {name!r} in DATABASES[{alias!r}], or 'url' instead of 'database'.",
        )
    arguments: dict[str, Any] = {}
    settings: dict[str, str] = {}
    query: dict[str, str] = {}
    for name, value in sorted(_connection_parameters(alias).items()):
        if name in ("host", "port") and "," in value:
            arguments[name] = value.split(",")
        elif name in _ADDRESS:
            arguments[_ADDRESS[name]] = value
        elif name in _SERVER_SETTINGS:
            settings[_SERVER_SETTINGS[name]] = value
        elif name in _IN_THE_URL:
            query[name] = value
        elif name == "connect_timeout":
            if float(value) > 0:
                arguments["timeout"] = float(value)
        elif name not in _IGNORED and value not in _WITHOUT_EFFECT.get(name, ()):
            raise _unusable(
                f"DATABASES[{alias!r}]['OPTIONS'] has {name!r}: {value!r}, which asyncpg does not know.",
                "Remove it if Django does without, or give the layer a 'url' of its own instead of 'database'.",
            )
    if query:
        arguments["url"] = f"postgresql://?{urlencode(query)}"
    arguments.update(options)
    arguments["server_settings"] = {**settings, **(options.get("server_settings") or {})}
    return arguments


def _connection_parameters(alias: str) -> dict[str, str]:
    """Return libpq's parameters from Django's own backend, so that a backend that fetches passwords is asked."""
    if alias not in connections.settings:
        known = f"The aliases are {', '.join(sorted(connections.settings))}."
        raise _unusable(
            f"CONFIG['database'] is {alias!r}, which is no alias of DATABASES.",
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
    parameters = {**parameters, "assume_role": connection.settings_dict["OPTIONS"].get("assume_role")}
    return {name: value if name in _IGNORED else str(value) for name, value in parameters.items() if value is not None}


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
