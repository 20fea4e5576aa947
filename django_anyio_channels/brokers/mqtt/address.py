"""What an MQTT layer can be told, from keyword arguments or from a URL."""

from __future__ import annotations

import difflib
import ssl
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from uuid import uuid4

from .packets import Will

_SCHEMES = {"mqtt": False, "mqtts": True}
_VERSIONS = {"5": 5, "5.0": 5, "3.1.1": 4, "4": 4}


@dataclass(frozen=True, slots=True)
class MQTTOptions:
    """The options of `MQTTChannelLayer`, which documents them."""

    host: str = "localhost"
    port: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool | ssl.SSLContext = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    client_id: str = ""
    session_expiry: int = 0
    keepalive: int = 60
    probe_interval: float = 10.0
    connect_timeout: float = 5.0
    qos: int = 1
    no_local: bool = False
    receive_maximum: int = 65_535
    will: Will | None = None
    version: int | None = None

    @property
    def address(self) -> str:
        """The URL without secrets."""
        user = f"{quote(self.username)}@" if self.username else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{user}{host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """How to encrypt, if at all. Raises `OSError` for files that cannot be read."""
        if isinstance(self.tls, ssl.SSLContext):
            return self.tls
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def make_options(url: str | None, **given: Any) -> MQTTOptions:
    """Defaults, overridden by what the URL says, overridden by what was given (not None). Raises `ValueError`."""
    options = MQTTOptions() if url is None else _of_url(url)
    options = replace(options, **{name: value for name, value in given.items() if value is not None})
    if not options.tls and (options.ca_file or options.cert_file):
        raise ValueError("ca_file and cert_file need TLS: say mqtts:// or tls=True")
    if options.qos not in (0, 1, 2):
        raise ValueError(f"qos must be 0, 1 or 2, not {options.qos!r}")
    if options.version not in (None, 4, 5):
        raise ValueError(f"version must be 5, or 4 for MQTT 3.1.1, not {options.version!r}")
    if options.session_expiry and not options.client_id:
        raise ValueError("session_expiry needs a client_id of this node alone: the broker finds the session by it")
    if not 0 < options.keepalive <= 0xFFFF or not 0 < options.receive_maximum <= 0xFFFF:
        raise ValueError("keepalive and receive_maximum must be between 1 and 65535")
    return replace(
        options,
        port=options.port or (8883 if options.tls else 1883),
        client_id=options.client_id or f"anyio-{uuid4().hex[:16]}",
    )


def _of_url(url: str) -> MQTTOptions:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(
            f"An MQTT URL looks like mqtt://user:password@host:1883, or mqtts:// for TLS; not {_bare(url)!r}"
        )
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError(f"{_bare(url)!r} has a path; options follow after a question mark: mqtt://host/?qos=0")
    known: dict[str, Any] = {"host": parts.hostname, "tls": _SCHEMES[parts.scheme]}
    if parts.port:
        known["port"] = parts.port
    if parts.username is not None:
        known["username"] = unquote(parts.username)
    if parts.password is not None:
        known["password"] = unquote(parts.password)
    types = {field.name: str(field.type) for field in fields(MQTTOptions)}
    for name in ("host", "port", "tls", "will", "username", "password"):
        del types[name]
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(types)}"
            raise ValueError(f"The MQTT URL has the unknown option {name!r}; {hint}")
        known[name] = _read(name, types[name], text)
    return MQTTOptions(**known)


def _read(name: str, kind: str, text: str) -> Any:
    try:
        if name == "version":
            return _VERSIONS[text]
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except (KeyError, ValueError):
        raise ValueError(f"The option {name} of the MQTT URL cannot be {text!r}") from None
    return text


def _bare(url: str) -> str:
    """A URL fit for messages: without what may be a password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
