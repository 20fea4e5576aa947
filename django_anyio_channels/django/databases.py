"""``"database": "default"``: what Django's DATABASES say, as the PostgreSQL layer's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created

_IN_THE_URL = frozenset(
    {
        *("passfile", "service", "servicefile", "target_session_attrs", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    }
)
"""asyncpg reads these as libpq does."""

_SETTINGS = frozenset({"application_name", "options"})
"""The server reads these itself."""

_IGNORED = frozenset(
    {
        # How psycopg sends statements and returns rows.
        *("client_encoding", "context", "cursor_factory", "prepare_threshold", "row_factory"),
        # The layer's own probes notice a dead link sooner.
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    }
)
"""They mean nothing to a connection of the layer. Django keeps ``pool``, ``isolation_level`` and the like to itself."""

_WITHOUT_EFFECT = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
}
"""asyncpg does not do these, which is right unless they are required."""

_WHERE = frozenset({"url", "host", "port", "user", "password", "database"})


class UnusableDatabase(Exception):
    """An alias that no layer can be made from; `hint` says what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def layer_arguments(alias: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `PostgreSQLChannelLayer` for the database that the alias means now; ``options`` come on top.

    Under test that is the test database. Raises `UnusableDatabase`.
    """
    for name in sorted(_WHERE & set(options)):
        raise UnusableDatabase(
            f"CONFIG has 'database' and 'options' with {name!r}, which contradict each other.",
            f"Give {name!r} in DATABASES[{alias!r}], or 'url' instead of 'database'.",
        )
    found = _connection_parameters(alias)
    arguments: dict[str, Any] = {}
    if "host" in found:
        arguments["host"] = _several(found.pop("host"))
    if "port" in found:
        arguments["port"] = _several(found.pop("port"))
    for name, argument in (("dbname", "database"), ("user", "user"), ("password", "password")):
        if name in found:
            arguments[argument] = found.pop(name)
    seconds = float(found.pop("connect_timeout", 0))
    if seconds > 0:
        arguments["timeout"] = seconds
    settings = {name: found.pop(name) for name in sorted(_SETTINGS & set(found))}
    if "assume_role" in found:
        settings["role"] = found.pop("assume_role")
    query = {name: found.pop(name) for name in sorted(_IN_THE_URL & set(found))}
    for name, value in found.items():
        if name not in _IGNORED and value not in _WITHOUT_EFFECT.get(name, ()):
            raise UnusableDatabase(
                f"DATABASES[{alias!r}]['OPTIONS'] has {name!r}: {value!r}, which asyncpg does not know.",
                "Take it away if Django does without, or give the layer a 'url' of its own instead of 'database'.",
            )
    if query:
        arguments["url"] = f"postgresql://?{urlencode(query)}"
    arguments.update(options)
    arguments["server_settings"] = {**settings, **(options.get("server_settings") or {})}
    return arguments


def _connection_parameters(alias: str) -> dict[str, str]:
    """libpq's parameters as Django's own backend makes them, so that a backend which asks a vault is asked too."""
    if alias not in connections.settings:
        close = get_close_matches(str(alias), connections.settings, n=1)
        known = f"The aliases are {', '.join(sorted(connections.settings))}."
        raise UnusableDatabase(
            f"CONFIG['database'] is {alias!r}, which is no alias of DATABASES.",
            f"Did you mean {close[0]!r}?" if close else known,
        )
    try:
        connection = connections.create_connection(alias)
        if connection.vendor == "postgresql":
            parameters = connection.get_connection_params()
    except ImproperlyConfigured as error:
        raise UnusableDatabase(
            f"CONFIG['database'] is {alias!r}, whose entry in DATABASES cannot be used: {error}",
            f"Correct DATABASES[{alias!r}].",
        ) from error
    if connection.vendor != "postgresql":
        raise UnusableDatabase(
            f"CONFIG['database'] is {alias!r}, but DATABASES[{alias!r}]['ENGINE'] is "
            f"{connection.settings_dict['ENGINE']!r}, which is not PostgreSQL.",
            "Name an alias whose ENGINE is 'django.db.backends.postgresql', or choose another broker by 'url'.",
        )
    role = connection.settings_dict["OPTIONS"].get("assume_role")
    parameters = {**parameters, "assume_role": role}
    return {name: value if name in _IGNORED else str(value) for name, value in parameters.items() if value is not None}


def _several(value: str) -> str | list[str]:
    return value.split(",") if "," in value else value


class Watch:
    """Calls back before Django makes, clones or drops a database, none of which it can while somebody uses it."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        connection_created.connect(self._connected)

    def _connected(self, sender: object, connection: Any, **kwargs: object) -> None:
        # That is all that Django opens a connection to no database for.
        if connection.alias == NO_DB_ALIAS and connection.vendor == "postgresql":
            self._call()
