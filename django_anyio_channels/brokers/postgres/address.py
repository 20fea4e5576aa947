"""Where a PostgreSQL server is, how to get in, and why that failed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import asyncpg

from ...core.exceptions import ListenerClosed

CONNECT_SECONDS = 5.0
_ABANDON_SECONDS = 0.5
APPLICATION_NAME = "django-anyio-channels"

# What asyncpg.connect takes besides: the layer decides it.
_DECIDED = frozenset(
    {
        "dsn",
        "loop",
        "command_timeout",
        "connection_class",
        "record_class",
        "statement_cache_size",
        "max_cached_statement_lifetime",
        "max_cacheable_statement_size",
    }
)
OPTIONS = frozenset(inspect.signature(asyncpg.connect).parameters) - _DECIDED
"""What a layer hands on to `asyncpg.connect`."""

# asyncpg would send any other to the server as a setting, a misspelt `sslmode` too.
_IN_THE_QUERY = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "database", "dbname", "service", "servicefile"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib"),
        *("application_name", "search_path", "options"),
    }
)


class NotificationConnection(asyncpg.Connection):
    """A connection whose notifications are handed over at once.

    asyncpg's own listeners cost a statement per channel to add and a turn of the event loop per notification.
    """

    on_notification: Callable[[str, str], object]

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        self.on_notification(channel, payload)


class Address:
    """One PostgreSQL database and how to log in to it."""

    def __init__(self, url: str | None, options: Mapping[str, Any], *, own: frozenset[str]) -> None:
        """``own`` are the layer's own options, for a good guess at what a wrong one was meant to be."""
        for name in options:
            if name not in OPTIONS:
                close = get_close_matches(name, sorted(OPTIONS | own), n=1, cutoff=0.5)
                hint = f"; did you mean {close[0]!r}?" if close else f"; asyncpg's are {', '.join(sorted(OPTIONS))}"
                raise TypeError(f"PostgreSQLChannelLayer knows no option {name!r}{hint}")
        if url is not None:
            _check_url(url)
        settings = {"application_name": APPLICATION_NAME, **(options.get("server_settings") or {})}
        self._arguments: dict[str, Any] = {
            "timeout": CONNECT_SECONDS,
            **options,
            "server_settings": settings,
            "dsn": url,
        }
        self._shown = _without_secrets(url, options)

    def __str__(self) -> str:
        """A URL without secrets."""
        return self._shown

    async def open(self, *, cache_statements: bool) -> NotificationConnection:
        """Log in, once. Raises `ListenerClosed` naming the address and the cure, and leaves nothing open."""
        attempt: asyncio.Future[NotificationConnection] = asyncio.ensure_future(
            asyncpg.connect(
                **self._arguments,
                connection_class=NotificationConnection,
                statement_cache_size=100 if cache_statements else 0,
            )
        )
        try:
            connection = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await _abandon(attempt)
            raise
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise ListenerClosed(self._explain(error)) from error
        connection.on_notification = _ignore
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
        "Each event loop needs two connections: raise the server's max_connections, or look who holds them",
    ),
    (asyncpg.CannotConnectNowError, "The server is starting or stopping; this is tried again"),
)


async def _abandon(attempt: asyncio.Future[NotificationConnection]) -> None:
    """Leave nothing open of an attempt.

    Cancelled in the moment when its socket opens, asyncpg leaves an error behind that nobody can retrieve.
    """
    await asyncio.wait([attempt], timeout=_ABANDON_SECONDS)
    attempt.cancel()
    await asyncio.wait([attempt])
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
    await asyncio.sleep(0)  # the transport closes its socket in the next turn


def _ignore(channel: str, payload: str) -> None:
    """Before anyone listens."""


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(
            f"{_without_secrets(url, {})!r} is no URL of PostgreSQL: postgresql://user:password@host:5432/database"
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _IN_THE_QUERY:
            close = get_close_matches(name, sorted(_IN_THE_QUERY), n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else "settings of the server go into server_settings={...}"
            raise ValueError(f"The URL of {_without_secrets(url, {})} has an unknown option {name!r}; {hint}")


def _without_secrets(url: str | None, options: Mapping[str, Any]) -> str:
    parts = urlsplit(url or "postgresql:///")
    query = dict(parse_qsl(parts.query))
    host = options.get("host") or query.get("host") or parts.netloc.rpartition("@")[2]
    if isinstance(host, (list, tuple)):
        host = ",".join(host)
    port = options.get("port") or query.get("port")
    if port and not isinstance(port, (list, tuple)) and f":{port}" not in host:
        host = f"{host}:{port}"
    database = options.get("database") or query.get("database") or query.get("dbname") or parts.path.lstrip("/")
    return f"postgresql://{host if ':' in host or not host.startswith('/') else quote(host, safe='')}/{database}"
