"""The options of the layers: their own, and those of redis-py's connections."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from redis.credentials import CredentialProvider

from ...core.options import (
    FILE,
    FLAG,
    PORT,
    SECONDS,
    TEXT,
    choice,
    count,
    instance_of,
    option_names,
    refuse_unknown_options,
)

POOL_OPTIONS = frozenset({"max_connections", "timeout", "auto_close_connection_pool", "single_connection_client"})
"""What redis-py's clients and pools take besides its connections: they mean nothing to a layer with two connections."""

OF_STREAMS = {
    "history_length": count("messages"),
    "history_age": SECONDS,
    "consumer_group": TEXT.or_none,
    "redeliver_after": SECONDS,
    "deliver_at_most": count("times"),
}

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
    "client_name": TEXT.or_none,
    "socket_connect_timeout": SECONDS.or_none,
    "socket_keepalive": FLAG.or_none,
    "socket_keepalive_options": _MAPPING,
    "sentinel_kwargs": _MAPPING,
    "ssl": FLAG,
    "ssl_ca_certs": FILE.or_none,
    "ssl_certfile": FILE.or_none,
    "ssl_keyfile": FILE.or_none,
    "ssl_check_hostname": FLAG,
    "ssl_cert_reqs": choice(None, "none", "optional", "required", *ssl.VerifyMode),
}


def refuse_unknown(given: Mapping[str, object], connection: type, layer: type) -> None:
    """Raise `TypeError` for an option that neither the layer nor redis-py's class of connections has."""
    of_streams = dict.fromkeys(OF_STREAMS, "It is an option of redis+streams://, whose groups have a history")
    known = option_names(connection) | option_names(layer) | POOL_OPTIONS
    refuse_unknown_options(layer.__name__, given, known - {"options"}, of_streams)
