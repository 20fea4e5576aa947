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
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg

from ...core.exceptions import ListenerClosed
from ...core.options import check_options, refuse_unknown_options
from ..common.lookups import keep_lookups_working
from .options import OPTIONS as TYPES
from .parameters import address_text, read_parameters

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

OnNotification = Callable[[str, str], None]
"""Called with the channel and the payload."""

Credentials = Callable[[], Awaitable[tuple[str | None, str | None]]]
"""Returns the user and the password; None is what the other arguments say."""


class NotificationConnection(asyncpg.Connection):
    """A connection that hands over each notification while it is read."""

    on_notification: OnNotification

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        self.on_notification(channel, payload)


class Address:
    """One PostgreSQL database and how to log in to it."""

    def __init__(
        self,
        url: str | None,
        options: Mapping[str, Any],
        *,
        layer_options: frozenset[str],
        credentials: Credentials | None = None,
    ) -> None:
        """``layer_options`` are the names of the layer's own options, for the hint at the nearest name.

        ``credentials`` is asked for each new connection.
        """
        refuse_unknown_options("PostgreSQLChannelLayer", options, OPTIONS | layer_options)
        check_options({"url": url, **options}, TYPES)
        of_url = read_parameters(url or "postgresql://")
        if options.get("host"):
            of_url.pop("port", None)
        settings = {**of_url.pop("server_settings", {}), **(options.get("server_settings") or {})}
        given = {name: value for name, value in options.items() if value is not None}
        self._credentials = credentials
        self._arguments: dict[str, Any] = {
            "timeout": CONNECT_TIMEOUT,
            **of_url,
            **given,
            "server_settings": {"application_name": APPLICATION_NAME, **settings},
        }
        self._text = address_text(self._arguments)

    def __str__(self) -> str:
        """A URL without secrets."""
        return self._text

    async def open(self, on_notification: OnNotification, *, cache_statements: bool) -> NotificationConnection:
        """Log in, once. Raises `ListenerClosed` naming the address and the cure, and leaves nothing open."""
        keep_lookups_working()
        attempt = asyncio.ensure_future(self._connect(100 if cache_statements else 0))
        try:
            await asyncio.wait([attempt])
        except asyncio.CancelledError:
            await _abandon(attempt)
            raise
        error = attempt.exception()
        if error is None:
            connection = attempt.result()
            connection.on_notification = on_notification
            return connection
        if isinstance(error, _REFUSALS):
            # Without the error itself: the frames of its traceback hold the password.
            raise ListenerClosed(self._explain(error))
        raise _without_frames(error)

    async def _connect(self, statement_cache_size: int) -> NotificationConnection:
        arguments = {**self._arguments, "statement_cache_size": statement_cache_size}
        if self._credentials is not None:
            try:
                user, password = await self._credentials()
            except Exception as error:
                raise ListenerClosed(
                    f"{self}: the credentials cannot be fetched: {type(error).__name__}: {error}"
                ) from None
            arguments.update(_without_none(user=user, password=password))
        connection: NotificationConnection
        connection = await asyncpg.connect(**arguments, connection_class=NotificationConnection)
        return connection

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, ListenerClosed):
            return str(error)
        reason = str(error).rstrip(".") or f"no answer within {self._arguments['timeout']:g} s"
        for kind, pattern, cure in _CURES:
            if isinstance(error, kind) and re.search(pattern, reason):
                return f"{self}: {reason}. {cure}"
        return f"{self}: {reason}"


_REFUSALS = (ListenerClosed, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)

_CURES: tuple[tuple[type[BaseException], str, str], ...] = (
    (
        asyncpg.TooManyConnectionsError,
        "for (role|database)",
        "Each event loop needs two connections: raise the CONNECTION LIMIT, or close other connections",
    ),
    (
        asyncpg.TooManyConnectionsError,
        "",
        "Each event loop needs two connections: raise the server's max_connections, or close other connections",
    ),
    (
        asyncpg.PostgresError,
        "no encryption|SSL off|SSL required",
        "The server requires TLS: add ?sslmode=require to the URL, or ssl='require'; or allow this in its pg_hba.conf",
    ),
    (asyncpg.PostgresError, "authentication failed", "Correct the user name and the password"),
    (asyncpg.PostgresError, "no pg_hba.conf entry", "Allow it in the server's pg_hba.conf, or correct the user name"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "role .* (does not exist|is not permitted to log in)",
        "Create the role with LOGIN, or correct the user name",
    ),
    (
        asyncpg.PostgresError,
        'role "|"role"',
        "Correct the role in server_settings (assume_role of Django), or GRANT it to the user",
    ),
    (asyncpg.PostgresError, "permission denied for database", "GRANT CONNECT ON DATABASE to the user"),
    (asyncpg.PostgresError, "database .* does not exist|no such database", "Create the database, or correct its name"),
    (
        asyncpg.PostgresError,
        "no more connections allowed",
        "Each event loop needs two connections: raise max_client_conn of the pooler, or close other connections",
    ),
    (
        asyncpg.PostgresError,
        "startup parameter",
        "Take the setting out of server_settings and the URL, or add it to ignore_startup_parameters of the pooler",
    ),
    (asyncpg.PostgresError, "parameter", "Correct server_settings, or the options in the URL"),
    (asyncpg.CannotConnectNowError, "", "The server is starting or stopping; this is tried again"),
    (asyncpg.PostgresConnectionError, "", "Check that a PostgreSQL server is at this address"),
    (
        ssl.SSLCertVerificationError,
        "",
        "Check that sslrootcert is the authority of the server's certificate, and that this has the name of the host",
    ),
    (ssl.SSLError, "", "Check that the server uses TLS, and which certificates it requires"),
    (OSError, "rejected SSL upgrade", "The server does not speak TLS: turn on its ssl, or use sslmode=prefer"),
    (asyncpg.TargetServerAttributeNotMatched, "", "Correct target_session_attrs, or the addresses"),
    (OSError, "", "Check that the server runs and that the address is right"),
    (TimeoutError, "", "Check that the server runs and that the address is right"),
)
"""Type of the error, pattern of its text, cure; the first that fits."""


def _without_none(**arguments: str | None) -> dict[str, str]:
    return {name: value for name, value in arguments.items() if value is not None}


def _without_frames(error: BaseException) -> BaseException:
    """Return an error without its traceback, and without the errors before it."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


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
