"""Read a broker's URL: several hosts, percent-encoded credentials, and nothing secret in any error.

Not `urllib.parse.urlsplit`: it refuses the brackets of a list of IPv6 addresses, and its errors quote passwords.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote


class BrokerURL(NamedTuple):
    """The parts of ``scheme+kind+kind://username:password@host:port,host:port/path?query``."""

    scheme: str
    kinds: tuple[str, ...]
    """The words after ``+`` in the scheme."""
    username: str | None
    password: str | None
    hosts: tuple[str, ...]
    """Each with its port, if it has one."""
    path: str
    """Without the leading slash; still percent-encoded."""
    query: str
    """Without the question mark."""

    def __repr__(self) -> str:
        return f"<BrokerURL {self.scheme}://{','.join(self.hosts)}/{self.path}>"


def read_url(url: str) -> BrokerURL:
    """Read a URL. Raises `ValueError`, which shows nothing but the scheme where credentials may be."""
    kinds, separator, rest = url.partition("://")
    scheme, *more = kinds.lower().split("+")
    if not separator:
        raise ValueError("The URL has no scheme; it begins like redis://host:6379")
    place, _, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    credentials, at, hosts = netloc.rpartition("@")
    if "#" in rest or (not at and _may_hold_credentials(netloc, path, query)):
        raise ValueError(
            f"The {scheme}:// URL cannot be read: percent-encode the password (a / is %2F, a ? is %3F, a # is %23)"
        )
    username, _, password = credentials.partition(":")
    return BrokerURL(
        scheme,
        tuple(more),
        unquote(username) or None,
        unquote(password) or None,
        tuple(hosts.split(",")),
        path,
        query,
    )


def _may_hold_credentials(netloc: str, path: str, query: str) -> bool:
    """Return whether an ``@`` after the first slash or question mark may end a password."""
    if "@" in path:
        return bool(netloc)  # the path of a socket may hold one
    port = netloc.rpartition(":")[2]
    return "@" in query and ":" in netloc and not port.isdecimal() and not port.endswith("]")


def without_secrets(url: str) -> str:
    """Return a URL without credentials and query, for errors and logs."""
    scheme, separator, rest = url.partition("://")
    place = rest.partition("?")[0].partition("#")[0]
    netloc, slash, path = place.partition("/")
    if "@" not in netloc and "@" in rest:
        return f"{scheme}{separator}..."
    return f"{scheme}{separator}{netloc.rpartition('@')[2]}{slash}{path}"


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Read ``host``, ``host:port``, ``[address]`` or ``[address]:port``. Raises `ValueError` for a wrong port."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{port!r} is not a port; a port is a number from 1 to 65535")
    return host.strip("[]"), int(port or default_port)
