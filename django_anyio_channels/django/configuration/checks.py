"""System checks of ``CHANNEL_LAYERS`` (https://docs.djangoproject.com/en/stable/topics/checks/).

========================  =============================================================================
``anyio_channels.E001``   CONFIG has an unknown key
``anyio_channels.E002``   CONFIG has keys that contradict each other
``anyio_channels.E003``   the broker's URL, the layer or its options cannot be used
``anyio_channels.E004``   a package is missing; the hint names the extra to install
``anyio_channels.E005``   a value has the wrong type or range
``anyio_channels.E006``   BACKEND is not the path of this package's layer
``anyio_channels.E007``   a key stands beside CONFIG that belongs under it
``anyio_channels.E008``   ``database`` names no PostgreSQL in DATABASES that the layer can use
``anyio_channels.E009``   ``runworker`` is used with the in-memory layer
``anyio_channels.W001``   the in-memory layer is used with ``DEBUG = False``
``anyio_channels.W002``   an encryption key is short enough to be guessed
``anyio_channels.W003``   memberships end sooner than unread messages
``anyio_channels.W004``   two aliases share a broker and a prefix
``anyio_channels.W005``   there is no layer called ``default``, which consumers use
``anyio_channels.W006``   CONFIG has a key that does nothing any more
``anyio_channels.W007``   ``CHANNEL_LAYERS`` is missing or empty
========================  =============================================================================
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core import checks, mail
from django.utils.module_loading import import_string

from ...core.exceptions import MissingDriver
from ..layer import AnyioChannelLayer
from ..settings import ConfigError, Settings
from .config import misplaced_keys
from .factory import is_in_memory

_PACKAGE = "django_anyio_channels"
_BACKEND = f"{_PACKAGE}.{AnyioChannelLayer.__name__}"
_SHORTEST_SAFE_KEY = 16


def check_channel_layers(app_configs: object = None, **kwargs: object) -> list[checks.CheckMessage]:
    """Check ``CHANNEL_LAYERS`` without connecting to a broker."""
    layers: Any = getattr(settings, "CHANNEL_LAYERS", None) or {}
    if not isinstance(layers, Mapping):
        return [_not_a_dict("CHANNEL_LAYERS", layers)]
    if not layers:
        hint = f"Write CHANNEL_LAYERS = {{'default': {{'BACKEND': {_BACKEND!r}}}}}, and the broker under its 'CONFIG'."
        return [_message("W007", "CHANNEL_LAYERS is not set, so consumers have no channel layer.", hint)]
    ours = {alias: entry for alias, entry in layers.items() if _is_of_this_package(entry)}
    messages = [message for alias, entry in ours.items() for message in _check_entry(alias, entry)]
    messages.extend(_check_shared(ours))
    if ours and "default" not in layers:
        hint = "Call one 'default', or set channel_layer_alias in every consumer."
        messages.append(_message("W005", "CHANNEL_LAYERS has no layer called 'default'.", hint))
    return messages


def _message(code: str, message: str, hint: str) -> checks.CheckMessage:
    kind = checks.Error if code.startswith("E") else checks.Warning
    return kind(message, hint=hint, id=f"anyio_channels.{code}")


def _not_a_dict(where: str, value: object) -> checks.CheckMessage:
    return _message("E005", f"{where} has an invalid value ({type(value).__name__}).", "It must be a dict.")


def _is_of_this_package(entry: Any) -> bool:
    backend = entry.get("BACKEND") if isinstance(entry, Mapping) else None
    return isinstance(backend, str) and (backend.partition(".")[0] == _PACKAGE or _backend_error(backend) is None)


def _backend_error(backend: str) -> str | None:
    """Return why this path cannot be BACKEND, or None."""
    try:
        found = import_string(backend)
    except ImportError:
        return "does not exist"
    right = isinstance(found, type) and issubclass(found, AnyioChannelLayer)
    return None if right else f"is not a subclass of {AnyioChannelLayer.__name__}"


def _check_entry(alias: str, entry: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    where = f"CHANNEL_LAYERS[{alias!r}]"
    reason = _backend_error(entry["BACKEND"])
    if reason is not None:
        hint = f"Write {_BACKEND!r}. The broker is chosen by 'url' under CONFIG."
        yield _message("E006", f"{where}: {entry['BACKEND']!r} {reason}.", hint)
        return
    for error in misplaced_keys(alias, entry):
        yield _message(error.code, error.message, error.hint)
    config = entry.get("CONFIG", {})
    if not isinstance(config, Mapping):
        yield _not_a_dict(f"{where}['CONFIG']", config)
        return
    try:
        read = import_string(entry["BACKEND"]).read_config(config)
    except ConfigError as error:
        yield _message(error.code, f"{where}: {error.message}", error.hint)
    except MissingDriver as error:
        yield _message("E004", f"{where}: a package is missing.", str(error))
    else:
        if is_in_memory(read.layer_factories[0]()):
            yield from _check_in_memory(alias, where)
        yield from _check_settings(where, read, config.get("symmetric_encryption_keys") or ())


def _check_in_memory(alias: str, where: str) -> Iterator[checks.CheckMessage]:
    hint = "Its messages stay in one process. With several server processes or workers, set 'url' to a broker."
    if alias == _layer_of_worker():
        yield _message("E009", f"{where} is the in-memory layer, so runworker would receive nothing.", hint)
    elif not settings.DEBUG and not _is_under_test():
        yield _message("W001", f"{where} is the in-memory layer, and DEBUG is False.", hint)


def _check_settings(where: str, read: Settings, keys: Iterable[str | bytes]) -> Iterator[checks.CheckMessage]:
    if any(len(key) < _SHORTEST_SAFE_KEY for key in keys):
        yield _message(
            "W002",
            f"{where}: a key of 'symmetric_encryption_keys' has fewer than {_SHORTEST_SAFE_KEY} characters.",
            'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    if read.group_expiry < read.expiry:
        yield _message(
            "W003",
            f"{where}: 'group_expiry' ({read.group_expiry} s) is shorter than 'expiry' ({read.expiry} s).",
            "A consumer falls out of its groups while its messages are still kept. Raise 'group_expiry'.",
        )
    for warning in read.warnings:
        yield _message("W006", f"{where}: {warning.message}", warning.hint)


def _layer_of_worker() -> str | None:
    """Return the alias that ``runworker`` uses, if this is its process."""
    if sys.argv[1:2] != ["runworker"]:
        return None
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--layer", default="default")
    alias: str = parser.parse_known_args(sys.argv[2:])[0].layer
    return alias


def _is_under_test() -> bool:
    # Django's test environment sets DEBUG to False. It also makes this attribute, and documents that.
    return hasattr(mail, "outbox")


def _check_shared(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[checks.CheckMessage]:
    seen: dict[str, str] = {}
    for alias, entry in entries.items():
        config = entry.get("CONFIG", {})
        if not isinstance(config, Mapping):
            continue
        brokers = config.get("url", config.get("hosts", config.get("database"))) or ()
        urls = brokers if isinstance(brokers, (list, tuple)) else [brokers]
        shared = [repr((url, config.get("prefix", Settings.prefix))) for url in urls if url != "memory://"]
        first = next((seen[broker] for broker in shared if broker in seen), alias)
        seen.update(dict.fromkeys(shared, first))
        if first != alias:
            yield _message(
                "W004",
                f"CHANNEL_LAYERS[{first!r}] and CHANNEL_LAYERS[{alias!r}] share a broker and a prefix.",
                "Groups of the same name are one group. Give each its own 'prefix' to keep them apart.",
            )
