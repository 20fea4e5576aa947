"""Where an MQTT broker is and how to log in: keyword arguments, the URL, and the CONNECT packet they make."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints
from urllib.parse import parse_qsl, quote
from uuid import uuid4

import msgspec

from ...core.exceptions import InvalidOption, ListenerClosed
from ...core.hints import did_you_mean
from ...core.options import FILE, FLAG, SECONDS, TEXT, check_option, check_options, choice, count, instance_of
from ..common.urls import host_and_port, read_url, without_secrets
from .packets import CONNECT, Will, pack_packet, pack_properties, pack_text

_MADE_UP = "anyio-"
"""What each client_id begins with that nobody has chosen."""
_SCHEMES = {"mqtt": False, "mqtts": True}
_NOT_IN_THE_QUERY = {"host", "port", "tls", "will", "username", "password"}

OPTIONS = {
    "host": TEXT,
    "port": count("", most=65_535)._replace(wanted="a port from 1 to 65535"),
    "username": TEXT,
    "password": instance_of(str, wanted="a str"),
    "tls": instance_of(bool, ssl.SSLContext, wanted="True, False or an ssl.SSLContext"),
    **dict.fromkeys(["ca_file", "cert_file", "key_file"], FILE),
    "client_id": TEXT,
    "session_expiry": count("seconds", least=0, most=0xFFFF_FFFF),
    "keepalive": count("seconds", most=65_535),
    "probe_interval": SECONDS,
    "connect_timeout": SECONDS,
    "qos": choice(0, 1, 2),
    "no_local": FLAG,
    "receive_maximum": count("messages", most=65_535),
    "will": instance_of(Will, wanted="a Will"),
}


@dataclass(frozen=True, slots=True)
class MQTTOptions:
    """The options of `MQTTChannelLayer`, which documents them."""

    host: str = "localhost"
    port: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
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

    @property
    def fits_any_connection(self) -> bool:
        """Whether the broker can have several connections with these options at once."""
        return self.client_id.startswith(_MADE_UP) and not self.session_expiry

    @property
    def address(self) -> str:
        """The URL without secrets."""
        user = f"{quote(self.username)}@" if self.username else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{user}{host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return how to encrypt, or None. Raises `OSError` for files that cannot be read."""
        if isinstance(self.tls, ssl.SSLContext):
            return self.tls
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context

    @property
    def why_closed(self) -> str:
        """Why a broker may end a connection before it has answered."""
        tls = "" if self.tls else "requires TLS on this port (use mqtts://), "
        return (
            f"It {tls}does not support MQTT 5 there, or has reached its limit of clients (mosquitto: max_connections)"
        )

    @property
    def user(self) -> str:
        """How errors call the user."""
        return f"user {self.username!r}" if self.username else "anonymous users"

    def explain(self, error: OSError) -> ListenerClosed:
        """Return what to raise for an error of connecting."""
        text = f"{self.address}: {error}" if str(error) else f"{self.address}: {type(error).__name__}"
        if isinstance(error, ssl.SSLCertVerificationError):
            text += (
                ". Set ca_file to the certificate of the authority that signed its own, and use the host name in the "
                "certificate"
            )
        elif self.tls and isinstance(error, (ssl.SSLError, ConnectionResetError)):
            text += ". It may not use TLS on this port (use mqtt://), or requires a certificate (cert_file, key_file)"
        else:
            text += ". Check that the broker runs and that the address is right"
        return ListenerClosed(text)

    def connect_packet(self) -> bytes:
        """Encode the CONNECT."""
        flags = 0x02 * (not self.session_expiry)
        parts = [
            pack_properties((0x11, self.session_expiry or None), (0x21, self.receive_maximum)),
            pack_text(self.client_id),
        ]
        if self.will is not None:
            flags |= 0x04 | self.will.qos << 3 | 0x20 * self.will.retain
            parts += [pack_properties((0x18, self.will.delay or None))]
            parts += [pack_text(self.will.topic), pack_text(self.will.payload)]
        for flag, credential in ((0x80, self.username), (0x40, self.password)):
            if credential is not None:
                flags |= flag
                parts.append(pack_text(credential))
        return pack_packet(CONNECT, pack_text(b"MQTT"), bytes((5, flags)), self.keepalive.to_bytes(2, "big"), *parts)


def make_options(url: str | None, **given: Any) -> MQTTOptions:
    """Return the defaults, overridden by the URL, overridden by what is given and not None. Raises `ValueError`."""
    check_option("url", url, TEXT.or_none)
    options = MQTTOptions() if url is None else _from_url(url)
    given = {name: value for name, value in given.items() if value is not None}
    check_options(given, OPTIONS)
    options = replace(options, **given)
    if not options.tls and (options.ca_file or options.cert_file):
        raise ValueError("ca_file and cert_file need TLS: say mqtts:// or tls=True")
    if options.session_expiry and not options.client_id:
        raise ValueError("session_expiry needs a client_id of this node alone: the broker finds the session by it")
    return replace(
        options,
        port=options.port or (8883 if options.tls else 1883),
        client_id=options.client_id or f"{_MADE_UP}{uuid4().hex[:16]}",
    )


def _from_url(url: str) -> MQTTOptions:
    parts = read_url(url)
    if parts.scheme not in _SCHEMES or parts.kinds or len(parts.hosts) > 1 or not parts.hosts[0]:
        example = "mqtt://user:password@host:1883, or mqtts:// for TLS"
        raise ValueError(f"An MQTT URL looks like {example}; not {without_secrets(url)!r}")
    if parts.path:
        example = "mqtt://host/?qos=0"
        raise ValueError(f"{without_secrets(url)!r} has a path; options follow after a question mark: {example}")
    host, port = host_and_port(parts.hosts[0], 0)
    types = {name: kind for name, kind in get_type_hints(MQTTOptions).items() if name not in _NOT_IN_THE_QUERY}
    options: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in types:
            hint = did_you_mean(name, types, otherwise=f"Known are {', '.join(types)}")
            raise ValueError(f"The MQTT URL has the unknown option {name!r}. {hint}")
        try:
            options[name] = msgspec.convert(text, types[name], strict=False)
        except msgspec.ValidationError:
            raise InvalidOption(
                f"{name} has an invalid value in the MQTT URL", f"It must be {OPTIONS[name].wanted}"
            ) from None
    check_options(options, OPTIONS)
    return MQTTOptions(host, port, parts.username, parts.password, _SCHEMES[parts.scheme], **options)
