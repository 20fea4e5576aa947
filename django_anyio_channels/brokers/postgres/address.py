"""Where a PostgreSQL database is and how to log in to it, with asyncpg.

Its public `add_listener` sends a LISTEN for each channel (500 of them take 1,040 ms, one script 3 to 13 ms) and calls
the listeners in another turn of the event loop (4 to 6 us of CPU for a notification). `NotificationConnection`
overrides the private method that schedules them (0.6 us). It is that of asyncpg 0.31 and 0.32: pyproject.toml must not
allow another minor version untested. psycopg 3.3 takes 5 to 7 us for a notification, and 0.28 ms of CPU for a statement
that takes asyncpg 0.15 ms.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

import asyncpg

from ...core.exceptions import ListenerClosed
from ...core.hints import did_you_mean
from ..common.lookups import keep_lookups_working
from ..common.urls import read_url, without_secrets

CONNECT_TIMEOUT = 5.0
_ABANDON_TIMEOUT = 0.5
APPLICATION_NAME = "django-anyio-channels"

# Arguments of asyncpg.connect that the layer sets itself.
_RESERVED = frozenset(
    {
        *("dsn", "loop", "command_timeout", "connection_class", "record_class"),
        *("statement_cache_size", "max_cached_statement_lifetime", "max_cacheable_statement_size"),
    }
)
OPTIONS = frozenset(inspect.signature(asyncpg.connect).parameters) - _RESERVED
"""What a layer hands on to `asyncpg.connect`."""

# asyncpg would send any other to the server as a setting, a misspelt `sslmode` too.
_URL_OPTIONS = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "database", "dbname", "service", "servicefile"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib"),
        *("application_name", "search_path", "options"),
    }
)

OnNotification = Callable[[str, str], None]
"""Called with the channel and the payload."""


class NotificationConnection(asyncpg.Connection):
    """A connection that hands over each notification while it is read."""

    on_notification: OnNotification

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        self.on_notification(channel, payload)


class Address:
    """One PostgreSQL database and how to log in to it."""

    def __init__(self, url: str | None, options: Mapping[str, Any], *, layer_options: frozenset[str]) -> None:
        """``layer_options`` are the names of the layer's own options, for the hint at the nearest name."""
        for name in options:
            if name not in OPTIONS:
                hint = did_you_mean(
                    name, OPTIONS | layer_options, otherwise=f"The options of asyncpg are {', '.join(sorted(OPTIONS))}"
                )
                raise TypeError(f"PostgreSQLChannelLayer knows no option {name!r}. {hint}")
        settings = {"application_name": APPLICATION_NAME, **(options.get("server_settings") or {})}
        self._text = _check_url(url or "postgresql://", options)
        self._arguments: dict[str, Any] = {
            "timeout": CONNECT_TIMEOUT,
            **options,
            "server_settings": settings,
            "dsn": url,
        }

    def __str__(self) -> str:
        """A URL without secrets."""
        return self._text

    async def open(self, on_notification: OnNotification, *, cache_statements: bool) -> NotificationConnection:
        """Log in, once. Raises `ListenerClosed` naming the address and the cure, and leaves nothing open."""
        arguments = {**self._arguments, "statement_cache_size": 100 if cache_statements else 0}
        keep_lookups_working()
        connecting = asyncpg.connect(**arguments, connection_class=NotificationConnection)
        attempt: asyncio.Future[NotificationConnection] = asyncio.ensure_future(connecting)
        try:
            connection = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await _abandon(attempt)
            raise
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise ListenerClosed(self._explain(error)) from error
        connection.on_notification = on_notification
        return connection

    def _explain(self, error: Exception) -> str:
        reason = str(error) or f"no answer within {self._arguments['timeout']:g} s"
        for kind, cure in _CURES:
            if isinstance(error, kind):
                return f"{self}: {reason}. {cure}"
        if "no encryption" in reason or "SSL off" in reason:
            return f"{self}: {reason}. The server wants TLS: add ?sslmode=require to the URL, or ssl=True"
        return f"{self}: {reason}. Check that the server runs and that the address is right"


_CURES: tuple[tuple[type[Exception], str], ...] = (
    (asyncpg.InvalidPasswordError, "Correct the user name and the password"),
    (asyncpg.InvalidCatalogNameError, "Create the database, or correct its name"),
    (
        asyncpg.TooManyConnectionsError,
        "Each event loop needs two connections: raise the server's max_connections, or close other connections",
    ),
    (asyncpg.CannotConnectNowError, "The server is starting or stopping; this is tried again"),
)


async def _abandon(attempt: asyncio.Future[NotificationConnection]) -> None:
    """Leave nothing open of an attempt.

    Cancelled in the moment when its socket opens, asyncpg leaves an error behind that nobody can retrieve.
    """
    await asyncio.wait([attempt], timeout=_ABANDON_TIMEOUT)
    attempt.cancel()
    await asyncio.wait([attempt])
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
    await asyncio.sleep(0)  # the transport closes its socket in the next turn


def _check_url(url: str, options: Mapping[str, Any]) -> str:
    """Return the address without secrets. Raises `ValueError` for a wrong URL."""
    parts = read_url(url)
    if parts.scheme not in ("postgresql", "postgres") or parts.kinds:
        raise ValueError(
            f"{without_secrets(url)!r} is not a PostgreSQL URL; one is postgresql://user:password@host:5432/database"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = options.get("host") or query.get("host") or ",".join(parts.hosts)
    if isinstance(host, (list, tuple)):
        host = ",".join(host)
    port = options.get("port") or query.get("port")
    if port and not isinstance(port, (list, tuple)) and f":{port}" not in host:
        host = f"{host}:{port}"
    database = options.get("database") or query.get("database") or query.get("dbname") or parts.path
    text = f"postgresql://{host if ':' in host or not host.startswith('/') else quote(host, safe='')}/{database}"
    for name in query:
        if name not in _URL_OPTIONS:
            hint = did_you_mean(name, _URL_OPTIONS, otherwise="Settings of the server go into server_settings={...}")
            raise ValueError(f"The URL {text} has an unknown option {name!r}. {hint}")
    return text
