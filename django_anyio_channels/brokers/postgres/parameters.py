"""The parameters of a ``postgresql://`` URL, which are libpq's, as arguments of `asyncpg.connect`.

asyncpg itself looks for the host behind the first @, and would send parameters that it doesn't know to the server as
settings. What it reads as libpq does stays in a URL: the files, and TLS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ...core.hints import did_you_mean
from ..common.urls import BrokerURL, host_and_port, read_url, without_secrets
from .options import SERVER_KINDS, TLS_MODES

_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_CHOICES = {
    "sslmode": TLS_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": SERVER_KINDS,
}

_FILES = frozenset({"sslcert", "sslkey", "sslrootcert", "sslcrl"})

_READ_BY_ASYNCPG = frozenset(
    {*_CHOICES, *_FILES, "sslpassword", "passfile", "service", "servicefile", "krbsrvname", "gsslib"}
)

_SERVER_SETTINGS = frozenset({"application_name", "options", "role", "search_path"})

_IGNORED = frozenset(
    {
        "client_encoding",
        # The layer's own probes notice a dead connection sooner.
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    }
)

_WITHOUT_EFFECT = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
}
"""Features that asyncpg lacks, with the values that do without them."""

_ADDRESS = frozenset({"host", "port", "user", "password", "database", "dbname", "connect_timeout"})

_KNOWN = _READ_BY_ASYNCPG | _SERVER_SETTINGS | _IGNORED | _WITHOUT_EFFECT.keys() | _ADDRESS


def read_parameters(url: str) -> dict[str, Any]:
    """Return the arguments for `asyncpg.connect`. Raises `ValueError`, without secrets."""
    parts = read_url(url)
    if parts.scheme not in ("postgresql", "postgres") or parts.kinds:
        raise ValueError(
            f"{without_secrets(url)!r} is not a PostgreSQL URL; one is postgresql://user:password@host:5432/database"
        )
    given = {name: value for name, value in parse_qsl(parts.query) if value}
    arguments: dict[str, Any] = {
        **_hosts(parts, given),
        "user": parts.username or given.get("user"),
        "password": parts.password or given.get("password"),
        "database": unquote(parts.path) or given.get("database") or given.get("dbname"),
        "server_settings": {name: given[name] for name in sorted(_SERVER_SETTINGS & given.keys())},
    }
    arguments = {name: value for name, value in arguments.items() if value}
    where = address_text(arguments)
    for name, value in given.items():
        _check(name, value, where)
    if float(given.get("connect_timeout", 0)) > 0:  # 0 is endless for libpq
        arguments["timeout"] = float(given["connect_timeout"])
    query = {name: given[name] for name in sorted(_READ_BY_ASYNCPG & given.keys())}
    if query:
        arguments["dsn"] = f"postgresql://?{urlencode(query)}"
    return arguments


def _hosts(parts: BrokerURL, given: dict[str, str]) -> dict[str, Any]:
    """Return ``host`` and ``port``, lists of one length; either may be left out."""
    ports = [_read_port(port) for port in given.get("port", "").split(",") if port]
    if parts.hosts == ("",):
        hosts = given["host"].split(",") if "host" in given else []
        return {"host": hosts, "port": ports[0] if len(ports) == 1 else ports}
    found = [
        (text, 0) if text.startswith("/") else host_and_port(text, default_port=0) for text in map(unquote, parts.hosts)
    ]
    if not ports and not any(port for _, port in found):
        return {"host": [host for host, _ in found]}
    return {
        "host": [host for host, _ in found],
        "port": [port or (ports[0] if ports else 5432) for _, port in found],
    }


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise ValueError("A port in the URL is not a number from 1 to 65535")
    return int(text)


def _check(name: str, value: str, where: str) -> None:
    if name not in _KNOWN:
        hint = did_you_mean(name, _KNOWN, otherwise="Settings of the server go into server_settings={...}")
        raise ValueError(f"{where} has an unknown option {name!r}. {hint}")
    choices = _CHOICES.get(name)
    if choices is not None and value not in choices:
        raise ValueError(f"{where} has {name}={value}; it must be {' or '.join(choices)}")
    if name in _WITHOUT_EFFECT and value not in _WITHOUT_EFFECT[name]:
        choices = _WITHOUT_EFFECT[name]
        raise ValueError(f"{where} has {name}={value}, which asyncpg cannot do; use {' or '.join(choices)}")
    if name in _FILES and not Path(value).is_file():
        raise ValueError(f"{where} has {name}={value}, which is not a file")
    if name == "connect_timeout" and not value.replace(".", "", 1).isdecimal():
        raise ValueError(f"{where} has connect_timeout={value}; it must be a number of seconds")


def address_text(arguments: dict[str, Any]) -> str:
    """Return a URL without secrets."""
    hosts, ports = (_as_list(arguments.get(name) or []) for name in ("host", "port"))
    if len(ports) == 1:
        ports *= len(hosts)
    shown = [f"[{host}]" if ":" in host else quote(host, safe="") for host in map(str, hosts)]
    if len(ports) == len(hosts):
        shown = [f"{host}:{port}" for host, port in zip(shown, ports, strict=True)]
    return f"postgresql://{','.join(shown)}/{quote(str(arguments.get('database') or ''), safe='')}"


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
