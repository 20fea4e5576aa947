"""Where a Redis server is and how to log in: redis-py reads the options of a URL and knows TLS, credentials, Sentinel.

Only its public names are used. Its connections stay unopened: they are asked for their settings.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from time import monotonic
from typing import Any
from urllib.parse import unquote

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

from ...core.options import check_options
from ..common.urls import BrokerURL, hosts_and_ports, read_url, without_secrets
from .options import OPTIONS, POOL_OPTIONS, refuse_unknown
from .packets import encode_command

CONNECT_SECONDS = 5.0
DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
_MASTER_SECONDS = 0.5
"""For which the Sentinels are not asked again. A session opens two connections; asking costs more than both."""


class Address:
    """One Redis server, or one name that Sentinels know it by."""

    def __init__(self, url: str | None, options: Mapping[str, Any], layer: type) -> None:
        """``layer`` has the options, for the hint at what a wrong one was meant to be."""
        check_options({"url": url, **options}, OPTIONS)
        given = dict(options)
        self._sentinels: list[tuple[str, int]] = []
        self._service = ""
        self._sentinel_options: dict[str, Any] = dict(given.pop("sentinel_kwargs", None) or {})
        if url is not None:
            given.update(self._read(url, given))
            check_options(given, OPTIONS)
        kind: type[Connection | UnixDomainSocketConnection]
        kind = given.pop("connection_class", None) or (
            UnixDomainSocketConnection if "path" in given or "unix_socket_path" in given else Connection
        )
        if given.pop("ssl", False):
            kind = SSLConnection
        if "unix_socket_path" in given:
            given["path"] = given.pop("unix_socket_path")
        refuse_unknown(given, kind, layer)
        self.options = {name: value for name, value in given.items() if name not in POOL_OPTIONS}
        self._settings: Any = kind(**self.options)
        self.timeout = float(given.get("socket_connect_timeout") or CONNECT_SECONDS)
        """Seconds for connecting and logging in."""
        self._master: tuple[str, int] | None = None
        """The master that the Sentinels named."""
        self._found_at = 0.0

    def _read(self, url: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of a URL, and learn of the Sentinels that it names."""
        parts = read_url(url)
        if parts.kinds != ("sentinel",):
            options = parse_url(url)
            if parts.scheme != "unix":
                _check_database(parts.scheme, parts.path)
                if parts.hosts != ("",) or not {"host"} & {*given, *options}:
                    _check_host(parts)
            elif not options.get("path"):
                raise ValueError("The unix:// URL names no socket; write unix:///path/to/redis.sock")
            return options
        self._sentinels = hosts_and_ports(parts, DEFAULT_SENTINEL_PORT)
        service, _, database = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError(
                f"{without_secrets(url)!r} lacks the master's name: redis+sentinel://host:26379/mymaster/0"
            )
        self._service = unquote(service)
        if parts.scheme == "rediss":
            self._sentinel_options.setdefault("ssl", True)
        return parse_options(parts.scheme, database, parts.query, parts.username, parts.password)

    def __str__(self) -> str:
        """A URL without secrets."""
        settings = self._settings
        secure = isinstance(settings, SSLConnection)
        if self._sentinels:
            hosts = ",".join(f"{host}:{port}" for host, port in self._sentinels)
            return f"redis{'s' * secure}+sentinel://{hosts}/{self._service}/{settings.db}"
        if self.path is not None:
            return f"unix://{self.path}?db={settings.db}"
        return f"redis{'s' * secure}://{settings.host}:{settings.port}/{settings.db}"

    @property
    def path(self) -> str | None:
        """The socket in the file system, or None."""
        return self._settings.path if isinstance(self._settings, UnixDomainSocketConnection) else None

    @property
    def database(self) -> int:
        return int(self._settings.db or 0)

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        return self._settings.ssl_context.get() if isinstance(self._settings, SSLConnection) else None

    @property
    def keepalive(self) -> Mapping[int, int] | None:
        """The options of TCP keepalive, or None where it is off."""
        return (self._settings.socket_keepalive_options or {}) if self._settings.socket_keepalive else None

    async def find_server(self) -> tuple[str, int]:
        """Return host and port; Sentinels are asked for them."""
        if not self._sentinels:
            return self._settings.host, self._settings.port
        if self._master is None or monotonic() - self._found_at > _MASTER_SECONDS:
            self._master, self._found_at = await self._ask_sentinels(), monotonic()
        return self._master

    def forget_master(self) -> None:
        """Ask the Sentinels again before the next attempt."""
        self._master = None

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

    async def login_commands(self) -> list[bytes]:
        """Return the encoded commands that begin a connection. A server that refuses one refuses the connection."""
        settings = self._settings
        commands = []
        provider = settings.credential_provider
        if provider is None and (settings.username or settings.password):
            provider = UsernamePasswordCredentialProvider(settings.username, settings.password)
        if provider is not None:
            commands.append(encode_command("AUTH", *await provider.get_credentials_async()))
        if settings.db:
            commands.append(encode_command("SELECT", settings.db))
        if settings.client_name:
            commands.append(encode_command("CLIENT", "SETNAME", settings.client_name))
        # A server that wants no more clients, or a password, says so in reply to whatever comes first.
        commands.append(encode_command("PING"))
        return commands

    def explain(self, error: BaseException) -> str:
        """Return why a connection could not be opened, and what to do."""
        reason = str(error).removeprefix(f"{self}: ") or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            reason = f"no answer within {self.timeout:g} s"
        cures = (cure for word, cure in _CURES.items() if word in reason)
        return f"{self}: {reason}. {next(cures, 'Check that the server runs and that the address is right')}"


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


def parse_options(scheme: str, database: str, query: str, username: str | None, password: str | None) -> dict[str, Any]:
    """Return redis-py's options of a URL of several hosts, which redis-py cannot read."""
    _check_database(scheme, database)
    options: dict[str, Any] = {**parse_url(f"{scheme}://several/{database}?{query}")}
    del options["host"]
    given = {"username": username, "password": password}
    return {**options, **{name: value for name, value in given.items() if value is not None}}


def _check_host(parts: BrokerURL) -> None:
    if len(hosts_and_ports(parts, DEFAULT_PORT)) > 1:
        raise ValueError(
            f"The {parts.scheme}:// URL names several hosts; write {parts.scheme}+sentinel:// or "
            f"{parts.scheme}+cluster:// for them, or give a list of URLs to the Django layer"
        )


def _check_database(scheme: str, path: str) -> None:
    # redis-py would take another database instead.
    if not re.fullmatch("[0-9]*/?", path):
        raise ValueError(f"The path of the {scheme}:// URL is not the number of a database; write redis://host:6379/0")
