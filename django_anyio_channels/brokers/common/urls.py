"""Read a broker's URL: several hosts, percent-encoded credentials, and nothing secret in any error.

Not `urllib.parse.urlsplit`: it refuses the brackets of a list of IPv6 addresses, and its errors quote passwords.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?]*)/?([^?]*)\??(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"[^:]*|\[[^]]*\]|.*:[0-9]*", re.DOTALL)
_OPTION_WITH_AT = re.compile(r"\w+=.*", re.DOTALL)


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
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("The URL has no scheme. Begin it like redis://host:6379")
    kinds, netloc, path, query = match.groups()
    scheme, *more = kinds.lower().split("+")
    credentials, _, hosts = netloc.rpartition("@")
    if _is_ambiguous(netloc, hosts, path, query):
        raise ValueError(
            f"The {scheme}:// URL cannot be read: percent-encode the password (a / is %2F, a ? is %3F, a # is %23), "
            f"and an @ behind the host (%40); a port is a number"
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


def without_secrets(url: str) -> str:
    """Return a URL without credentials and query, for errors and logs."""
    match = _URL.fullmatch(url)
    if match is None:
        return "..."
    kinds, netloc, path, query = match.groups()
    hosts = netloc.rpartition("@")[2]
    if _is_ambiguous(netloc, hosts, path, query):
        return f"{kinds}://..."
    return f"{kinds}://{hosts}{'/' * url.startswith('/', match.end(2))}{path}"


def _is_ambiguous(netloc: str, hosts: str, path: str, query: str) -> bool:
    """Return whether a part of the password may have been taken for a host, a port, the path or the query."""
    return (
        "#" in netloc + path + query
        or (netloc != "" and "@" in path)
        or ("@" in query and hosts.endswith(":"))
        or any("@" in option and not _OPTION_WITH_AT.match(option) for option in query.split("&"))
        or not all(_HOST.fullmatch(host) for host in hosts.split(","))
    )


def hosts_and_ports(parts: BrokerURL, default_port: int) -> list[tuple[str, int]]:
    """Read each host of a URL. Raises `ValueError` for one without a name or with a wrong port."""
    found = [host_and_port(host, default_port) for host in parts.hosts]
    if not all(host for host, _ in found):
        scheme = "+".join([parts.scheme, *parts.kinds])
        raise ValueError(f"The {scheme}:// URL names no host; write it like {scheme}://localhost:{default_port}")
    return found


def host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """Read ``host``, ``host:port``, ``[address]`` or ``[address]:port``. Raises `ValueError` for a wrong port."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, ""
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("A port in the URL is not a number from 1 to 65535")
    return host.strip("[]"), int(port or default_port)
