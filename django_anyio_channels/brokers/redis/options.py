"""The options of the layers: their own, and those of redis-py's connections."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.credentials import CredentialProvider

from ...core.options import (
    ACKNOWLEDGEMENT_OPTIONS,
    FILE,
    FLAG,
    HISTORY_OPTIONS,
    PORT,
    SECONDS,
    TEXT,
    Option,
    choice,
    count,
    instance_of,
    option_names,
    refuse_unknown_options,
)
from ..common.urls import host_and_port

DEFAULT_PORT = 6379

Node = tuple[str, int]
"""Host and port."""

POOL_OPTIONS = frozenset({"max_connections", "timeout", "auto_close_connection_pool", "single_connection_client"})
"""What redis-py's clients and pools take besides its connections: they mean nothing to a layer with two connections."""

OF_STREAMS = {**HISTORY_OPTIONS, **ACKNOWLEDGEMENT_OPTIONS, "history_length": count("messages")}

NOT_IN_URLS = frozenset(
    {
        *OF_STREAMS,
        "url",
        "probe_interval",
        "sentinel_kwargs",
        "address_remap",
        "connection_class",
        "credential_provider",
    }
)
"""Options of the layer, and those that are no text."""

_HINTS = {
    **dict.fromkeys(OF_STREAMS, "It is an option of redis+streams://, whose groups have a history"),
    "sentinel_kwargs": "It is an option of redis+sentinel://",
    "address_remap": "It is an option of redis+sentinel:// and redis+cluster://, whose servers announce addresses",
}
"""Options that a single server does not have."""


def _is_remapping(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(text, str) and _is_node(text) for pair in value.items() for text in pair)
    return value is None or callable(value)


def _is_node(text: str) -> bool:
    try:
        return host_and_port(text, DEFAULT_PORT)[0] != ""
    except ValueError:
        return False


def _is_connection_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, AbstractConnection)


_MAPPING = instance_of(Mapping, wanted="a dict").or_none
_CREDENTIAL = instance_of(str, wanted="a str").or_none


OPTIONS = {
    "url": TEXT.or_none,
    "probe_interval": SECONDS,
    **OF_STREAMS,
    "host": TEXT,
    "port": PORT,
    "db": count("", least=0)._replace(wanted="the number of a database, from 0").or_digits,
    "path": TEXT,
    "unix_socket_path": TEXT,
    "username": _CREDENTIAL,
    "password": _CREDENTIAL,
    "credential_provider": instance_of(CredentialProvider, wanted="a CredentialProvider of redis-py").or_none,
    "connection_class": Option(_is_connection_class, "a class of connections of redis.asyncio").or_none,
    "client_name": TEXT.or_none,
    "socket_timeout": SECONDS.or_none,
    "socket_connect_timeout": SECONDS.or_none,
    "socket_keepalive": FLAG.or_none,
    "socket_keepalive_options": _MAPPING,
    "sentinel_kwargs": _MAPPING,
    "address_remap": Option(
        _is_remapping,
        "a dict from announced to reachable addresses, such as {'10.0.0.1:6379': 'redis.example.com:6379'}, "
        "or a function from (host, port) to (host, port)",
    ),
    "ssl": FLAG,
    "ssl_ca_certs": FILE.or_none,
    "ssl_ca_path": Option(lambda value: isinstance(value, str) and os.path.isdir(value), "a folder").or_none,  # noqa: PTH112
    "ssl_certfile": FILE.or_none,
    "ssl_keyfile": FILE.or_none,
    "ssl_check_hostname": FLAG,
    "ssl_cert_reqs": choice(None, "none", "optional", "required", *ssl.VerifyMode),
}


def refuse_unknown(given: Mapping[str, object], connection: type, layer: type) -> None:
    """Raise `TypeError` for an option that neither the layer nor redis-py's class of connections has."""
    known = option_names(connection) | option_names(layer) | POOL_OPTIONS
    refuse_unknown_options(layer.__name__, given, known - {"options"}, _HINTS)


def node_remapping(given: Any) -> Callable[[Node], Node]:
    """Return the function from announced to reachable nodes that a valid ``address_remap`` describes."""
    if isinstance(given, Mapping):
        table = {
            host_and_port(announced, DEFAULT_PORT): host_and_port(reachable, DEFAULT_PORT)
            for announced, reachable in given.items()
        }
        return lambda node: table.get(node, node)
    return given or (lambda node: node)
