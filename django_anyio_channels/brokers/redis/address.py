"""Where a Redis server is and how to get in: redis-py reads the URL and knows TLS, credentials and Sentinel.

Only its public names are used. Its connections stay unopened: they are asked for their settings, because reading
through them costs ten times what hiredis itself costs.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote

import anyio
import hiredis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import RedisError

from ...core.exceptions import ListenerClosed
from .connection import OnPush, Wire, pack

CONNECT_SECONDS = 5.0
DEFAULT_SENTINEL_PORT = 26379
_BELIEVED = 0.5
"""Seconds for which the Sentinels are not asked again."""

# What redis-py's clients and pools take besides its connections: they mean nothing to a layer with two connections.
_POOL_OPTIONS = frozenset({"max_connections", "timeout", "auto_close_connection_pool", "single_connection_client"})


class Address:
    """One Redis server, or one name that Sentinels know it by."""

    def __init__(self, url: str | None, options: Mapping[str, Any], own: frozenset[str]) -> None:
        """``own`` are the layer's options, for a good guess at what a wrong one was meant to be."""
        given = dict(options)
        self._sentinels: list[tuple[str, int]] = []
        self._service = ""
        self._sentinel_options: dict[str, Any] = dict(given.pop("sentinel_kwargs", None) or {})
        if url is not None:
            url = self._read_sentinels(url)
            given = {**given, **parse_url(url)}
        kind: type[Connection | UnixDomainSocketConnection]
        kind = given.pop("connection_class", None) or (
            UnixDomainSocketConnection if "path" in given or "unix_socket_path" in given else Connection
        )
        if given.pop("ssl", False):
            kind = SSLConnection
        if "unix_socket_path" in given:
            given["path"] = given.pop("unix_socket_path")
        _refuse_unknown(given, kind, own)
        self.options = {name: value for name, value in given.items() if name not in _POOL_OPTIONS}
        self._kind = kind
        self._settings: Any = kind(**self.options)
        self._timeout = float(given.get("socket_connect_timeout") or CONNECT_SECONDS)
        self._found: tuple[str, int] | None = None
        """The master that the Sentinels named."""
        self._found_at = 0.0

    def _read_sentinels(self, url: str) -> str:
        parts = take_apart(url)
        if parts.kind != "sentinel":
            return url
        self._sentinels = [host_and_port(host, DEFAULT_SENTINEL_PORT) for host in parts.hosts]
        service, _, database = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError(
                f"{without_secrets(url)!r} lacks the master's name: redis+sentinel://host:26379/mymaster/0"
            )
        self._service = unquote(service)
        if parts.scheme == "rediss":
            self._sentinel_options.setdefault("ssl", True)
        return f"{parts.scheme}://{parts.credentials}sentinel/{database}{parts.query}"

    def __str__(self) -> str:
        """A URL without secrets."""
        settings = self._settings
        secure = isinstance(settings, SSLConnection)
        database = f"/{settings.db}"
        if self._sentinels:
            hosts = ",".join(f"{host}:{port}" for host, port in self._sentinels)
            return f"redis{'s' * secure}+sentinel://{hosts}/{self._service}{database}"
        if isinstance(settings, UnixDomainSocketConnection):
            return f"unix://{settings.path}?db={settings.db}"
        return f"redis{'s' * secure}://{settings.host}:{settings.port}{database}"

    async def open(self, on_push: OnPush, *prelude: bytes) -> tuple[Wire, list[Any]]:
        """Connect, authenticate and ask the packed commands of ``prelude``, once; returns the wire and their replies.

        Raises `ListenerClosed` naming the address and the cure, and leaves nothing open.
        """
        wire = None
        try:
            with anyio.fail_after(self._timeout):
                wire = await self._connect(on_push)
                replies = await self._enter(wire, prelude)
        except BaseException as error:
            if wire is not None:
                wire.abort()
            self._found = None
            if isinstance(error, (OSError, TimeoutError, RedisError, ListenerClosed)):
                raise ListenerClosed(self._explain(error)) from error
            raise
        return wire, replies

    async def _connect(self, on_push: OnPush) -> Wire:
        loop = asyncio.get_running_loop()
        settings = self._settings
        if isinstance(settings, UnixDomainSocketConnection):
            _, wire = await loop.create_unix_connection(lambda: Wire(str(self), on_push), settings.path)
            return wire
        host, port = await self._find_master() if self._sentinels else (settings.host, settings.port)
        secure = settings.ssl_context.get() if isinstance(settings, SSLConnection) else None
        transport, wire = await loop.create_connection(lambda: Wire(str(self), on_push), host, port, ssl=secure)
        if settings.socket_keepalive:
            keep = transport.get_extra_info("socket")
            keep.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (settings.socket_keepalive_options or {}).items():
                keep.setsockopt(socket.SOL_TCP, option, value)
        return wire

    async def _find_master(self) -> tuple[str, int]:
        # A life opens two connections, one after the other; what the Sentinels are asked through costs more than both.
        if self._found is None or monotonic() - self._found_at > _BELIEVED:
            self._found, self._found_at = await self._ask_sentinels(), monotonic()
        return self._found

    async def _ask_sentinels(self) -> tuple[str, int]:
        # The next Sentinel is a better second attempt than the same one.
        once = Retry(NoBackoff(), 0)
        options = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": once, **self._sentinel_options}
        sentinel = Sentinel(self._sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(self._service)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        return str(host), int(port)

    async def _enter(self, wire: Wire, prelude: tuple[bytes, ...]) -> list[Any]:
        settings = self._settings
        commands = []
        provider = settings.credential_provider
        if provider is None and (settings.username or settings.password):
            provider = UsernamePasswordCredentialProvider(settings.username, settings.password)
        if provider is not None:
            commands.append(pack("AUTH", *await provider.get_credentials_async()))
        if settings.db:
            commands.append(pack("SELECT", settings.db))
        if settings.client_name:
            commands.append(pack("CLIENT", "SETNAME", settings.client_name))
        # A server that wants no more clients, or a password, says so in answer to whatever comes first.
        commands.append(pack("PING"))
        own = len(commands)
        commands.extend(prelude)
        futures = [wire.ask(command) for command in commands]
        replies = [await future for future in futures]
        for reply in replies[:own]:
            if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("NOPERM"):
                raise ListenerClosed(str(reply))
        return replies[own:]

    def _explain(self, error: BaseException) -> str:
        reason = str(error).removeprefix(f"{self}: ") or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            reason = f"no answer within {self._timeout:g} s"
        for word, cure in _CURES.items():
            if word in reason:
                return f"{self}: {reason}. {cure}"
        return f"{self}: {reason}. Check that the server runs and that the address is right"


_CURES = {
    "WRONGPASS": "Correct the user name and the password",
    "NOAUTH": "Give a password: redis://:password@host, or password=",
    "invalid password": "Correct the user name and the password",
    "without any password configured": "Leave the password out, this server has none",
    "max number of clients": "Raise the server's maxclients, or look who holds its connections",
    "CERTIFICATE_VERIFY_FAILED": "Name the authority that signed the server's certificate with ssl_ca_certs",
    "No master found": "Check that the Sentinels run, and the master's name",
    "DB index is out of range": "Choose another database, or raise the server's setting `databases`",
}


class UrlParts(NamedTuple):
    """A URL that may name several hosts."""

    scheme: str
    kind: str
    """What stands behind ``+`` in the scheme."""
    credentials: str
    """With the ``@`` behind them."""
    hosts: list[str]
    path: str
    query: str
    """With the ``?`` before it."""


def take_apart(url: str) -> UrlParts:
    """Read a URL, as far as all kinds are alike."""
    # Not urlsplit: it refuses the brackets of a list of IPv6 addresses.
    kinds, _, rest = url.partition("://")
    scheme, _, kind = kinds.lower().partition("+")
    place, mark, options = rest.partition("?")
    netloc, _, path = place.partition("/")
    credentials, at, hosts = netloc.rpartition("@")
    return UrlParts(scheme, kind, credentials + at, hosts.split(","), path, mark + options)


def without_secrets(url: str) -> str:
    """A URL as it may be shown."""
    scheme, separator, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    return f"{scheme}{separator}{netloc.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """Read ``host:port`` or ``[host]:port``; the port may be missing."""
    host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not host:
        host, port = text, ""
    return host.strip("[]"), int(port or default)


def _refuse_unknown(options: Mapping[str, Any], kind: type, own: frozenset[str]) -> None:
    known = {
        name
        for ancestor in kind.__mro__
        if "__init__" in vars(ancestor)
        for name, parameter in inspect.signature(vars(ancestor)["__init__"]).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    for name in options:
        if name not in known | _POOL_OPTIONS:
            close = get_close_matches(name, sorted(known | own), n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"RedisPubSubChannelLayer and redis-py know no option {name!r}{hint}")
