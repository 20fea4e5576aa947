"""Where a Redis server is and how to log in: redis-py reads the options of a URL and knows TLS and credentials.

Only its public names are used. Its connections stay unopened: they are asked for their settings.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from copy import copy
from typing import Any
from urllib.parse import unquote

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.credentials import UsernamePasswordCredentialProvider
from redis.exceptions import RedisError

from ...core.options import check_options
from ..common.urls import BrokerURL, hosts_and_ports, read_url
from .options import DEFAULT_PORT, NOT_IN_URLS, OPTIONS, POOL_OPTIONS, Node, refuse_unknown
from .packets import encode_command, without_full_stop

CONNECT_SECONDS = 5.0

_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""Those over TCP, and whether they mean TLS."""

_CERT_REQS: dict[Any, str] = {ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}
_CERT_REQS |= {name: name for name in _CERT_REQS.values()}


class Address:
    """One Redis server."""

    def __init__(self, url: str | None, options: Mapping[str, Any], layer: type) -> None:
        """``layer`` has the options, for the hint at what a wrong one was meant to be."""
        given = dict(options) if url is None else {**options, **_read(url, options)}
        check_options(given, OPTIONS)
        if "unix_socket_path" in given:
            given["path"] = given.pop("unix_socket_path")
        kind: type[Connection | UnixDomainSocketConnection]
        kind = given.pop("connection_class", None) or (UnixDomainSocketConnection if "path" in given else Connection)
        if given.pop("ssl", False) and not issubclass(kind, SSLConnection):
            kind = SSLConnection
        refuse_unknown(given, kind, layer)
        if issubclass(kind, SSLConnection):
            # redis-py 5 does not check the server's name by itself, and knows these by their names only.
            given["ssl_cert_reqs"] = _CERT_REQS.get(given.get("ssl_cert_reqs", "required"), "none")
            given.setdefault("ssl_check_hostname", given["ssl_cert_reqs"] != "none")
        self.options: dict[str, Any] = {name: value for name, value in given.items() if name not in POOL_OPTIONS}
        self._settings = _make_settings(kind, self.options)
        self.ssl_context: Any = self._settings.ssl_context.get() if issubclass(kind, SSLConnection) else None
        self.path: str | None = given.get("path")
        """The socket in the file system, or None."""
        self.host: str = getattr(self._settings, "host", "")
        self.port: int = getattr(self._settings, "port", 0)
        self.timeout: float = float(given.get("socket_connect_timeout") or CONNECT_SECONDS)
        """Seconds for connecting and logging in."""

    def at(self, node: Node) -> Address:
        """Return the address of another server with the same options."""
        other = copy(self)
        other.host, other.port = node
        return other

    def __str__(self) -> str:
        """A URL without secrets."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.database}"
        return f"{self.scheme}://{self.host}:{self.port}/{self.database}"

    async def find_server(self) -> Address:
        """Return where to connect to: here. Sentinels have to be asked."""
        return self

    @property
    def scheme(self) -> str:
        """``redis``, or ``rediss`` for TLS."""
        return "redis" if self.ssl_context is None else "rediss"

    @property
    def database(self) -> int:
        return int(self._settings.db or 0)

    @property
    def keepalive(self) -> Mapping[int, int] | None:
        """The options of TCP keepalive, or None where it is off."""
        return (self._settings.socket_keepalive_options or {}) if self._settings.socket_keepalive else None

    async def login_commands(self) -> list[bytes]:
        """Return the encoded commands that begin a connection. A server that refuses one refuses the connection."""
        settings = self._settings
        commands = []
        provider = settings.credential_provider
        if provider is None and (settings.username or settings.password):
            provider = UsernamePasswordCredentialProvider(settings.username, settings.password)
        if provider is not None:
            commands.append(encode_command("AUTH", *await provider.get_credentials_async()))
        if self.database:
            commands.append(encode_command("SELECT", self.database))
        if settings.client_name:
            commands.append(encode_command("CLIENT", "SETNAME", settings.client_name))
        # A server that wants no more clients, or a password, says so in reply to whatever comes first.
        commands.append(encode_command("PING"))
        return commands

    def explain(self, error: BaseException) -> str:
        """Return why a connection could not be opened, and what to do."""
        reason = without_full_stop(str(error).removeprefix(f"{self}: ")) or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            reason = f"no answer within {self.timeout:g} s"
        cure = next((cure for word, cure in _CURES.items() if word in reason), "") or self._cure(error)
        return f"{self}: {reason}" + (f". {cure}" if cure else "")

    def _cure(self, error: BaseException) -> str:
        if isinstance(error, (OSError, UnicodeError)) and not isinstance(error, ssl.SSLError):
            may_be_plain = self.ssl_context is not None and isinstance(error, (TimeoutError, ConnectionResetError))
            hint = "; if it does not use TLS on this port, write redis://" if may_be_plain else ""
            return f"Check that the server runs and that the address is right{hint}"
        closed = self.path is None and self.ssl_context is None and "connection" in str(error)
        return "If it uses TLS on this port, write rediss://" if closed else ""


_CURES = {
    "WRONGPASS": "Correct the user name and the password",
    "NOAUTH": "Give a password: redis://:password@host, or password=",
    "invalid password": "Correct the user name and the password",
    "without any password configured": "Remove the password: this server has none",
    "max number of clients": "Raise the server's maxclients, or close other connections",
    "ostname mismatch": "Write the host as the certificate names it",
    "address mismatch": "Write the host as the certificate names it",
    "CERTIFICATE_VERIFY_FAILED": "Set ssl_ca_certs to the certificate of the authority that signed the server's",
    "WRONG_VERSION_NUMBER": "It does not use TLS on this port: write redis://",
    "DB index is out of range": "Choose another database, or raise the server's setting `databases`",
}


def read_location(url: str, kind: str) -> tuple[BrokerURL, dict[str, Any]]:
    """Return the parts of a URL over TCP, and the options in it; ``kind`` is the word after ``+``.

    Raises `ValueError`, which shows no secret.
    """
    parts = read_url(url)
    if parts.scheme not in _SCHEMES or "+".join(parts.kinds) != kind:
        raise ValueError(
            f"{'+'.join((parts.scheme, *parts.kinds))}:// is not a URL scheme of Redis; use redis://, rediss://, "
            f"unix:///path/to/redis.sock, redis+sentinel:// and redis+cluster://"
        )
    options = _options_in(parts)
    if _SCHEMES[parts.scheme]:
        options["ssl"] = True
    return parts, options


def database_in(scheme: str, path: str) -> dict[str, int]:
    """Return the option in the last part of a URL's path; none if it is empty."""
    # redis-py would take another database instead.
    if not re.fullmatch("[0-9]*/?", path):
        raise ValueError(f"The path of the {scheme}:// URL is not the number of a database; write redis://host:6379/0")
    return {"db": int(path.rstrip("/"))} if path.rstrip("/") else {}


def _read(url: str, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the URL of one server; a host may come ``beside`` it."""
    parts = read_url(url)
    if (parts.scheme, parts.kinds) == ("unix", ()):
        if parts.hosts != ("",) or not parts.path:
            raise ValueError("The unix:// URL names no socket; write unix:///path/to/redis.sock")
        return {**_options_in(parts), "path": f"/{unquote(parts.path)}"}
    if parts.kinds == ("socket",):
        raise ValueError(f"{parts.scheme}+socket:// is written unix:///path/to/redis.sock")
    parts, options = read_location(url, "")
    options = {**database_in(parts.scheme, parts.path), **options}
    if parts.hosts == ("",) and "host" in {*beside, *options}:
        return options
    [(host, port), *others] = hosts_and_ports(parts, DEFAULT_PORT)
    if others:
        raise ValueError(
            f"The {parts.scheme}:// URL names several hosts; write {parts.scheme}+sentinel:// or "
            f"{parts.scheme}+cluster:// for them, or give a list of URLs to the Django layer"
        )
    return {**options, "host": unquote(host), "port": port}


def _options_in(parts: BrokerURL) -> dict[str, Any]:
    """Return the credentials of a URL, and redis-py's options in its query."""
    try:
        options: dict[str, Any] = {**parse_url(f"redis://?{parts.query}")}
    except ValueError as error:
        raise ValueError(without_full_stop(str(error))) from None
    for name in sorted(NOT_IN_URLS & options.keys()):
        raise ValueError(
            f"{name} cannot stand in a URL; it is a keyword argument (in CONFIG it belongs under 'options')"
        )
    given = {"username": parts.username, "password": parts.password}
    return {**options, **{name: value for name, value in given.items() if value is not None}}


def _make_settings(kind: type[Connection | UnixDomainSocketConnection], options: Mapping[str, Any]) -> Any:
    try:
        settings: Any = kind(**options)
        if isinstance(settings, SSLConnection):
            settings.ssl_context.get()
    except (OSError, ValueError, RedisError) as error:
        # `from None`: what is between holds the password.
        raise ValueError(f"The options cannot be used: {without_full_stop(str(error))}") from None
    return settings
