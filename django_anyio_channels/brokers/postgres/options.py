"""The options of the layer: its own, and those of asyncpg's connections."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from ...core.options import (
    ACKNOWLEDGEMENT_OPTIONS,
    FLAG,
    HISTORY_OPTIONS,
    PORT,
    SECONDS,
    TEXT,
    Option,
    choice,
)

TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SERVER_KINDS = ("any", "read-write", "primary")
"""Which of several servers; the others that asyncpg knows are none to NOTIFY on."""


def _one_or_several(option: Option) -> Option:
    return Option(
        lambda value: all(map(option.is_valid, value)) if isinstance(value, (list, tuple)) else option.is_valid(value),
        f"{option.wanted}, or a list of them",
    )


def _are_settings(value: object) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values()))


OPTIONS = {
    "url": TEXT.or_none,
    "listen_url": TEXT.or_none,
    "probe_interval": SECONDS,
    "credentials": Option(lambda value: value is None or callable(value), "a function that returns user and password"),
    "synchronous_commit": FLAG,
    **HISTORY_OPTIONS,
    **ACKNOWLEDGEMENT_OPTIONS,
    "host": _one_or_several(TEXT).or_none,
    "port": _one_or_several(PORT).or_none,
    "user": TEXT.or_none,
    "password": Option(
        lambda value: value is None or isinstance(value, str) or callable(value), "a str, or a function that returns it"
    ),
    "database": TEXT.or_none,
    "timeout": SECONDS,
    "ssl": Option(
        lambda value: isinstance(value, (bool, ssl.SSLContext)) or value is None or value in TLS_MODES,
        f"True, False, an ssl.SSLContext, or one of {', '.join(map(repr, TLS_MODES))}",
    ),
    "direct_tls": FLAG.or_none,
    "server_settings": Option(_are_settings, "a dict from the names of settings to strings"),
    "target_session_attrs": choice(None, *SERVER_KINDS),
    "krbsrvname": TEXT.or_none,
    "gsslib": TEXT.or_none,
}
