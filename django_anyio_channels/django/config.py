"""Reads and validates CONFIG of ``CHANNEL_LAYERS``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from ..core.capabilities import require_acknowledgement
from ..core.exceptions import NotSupported
from ..core.hints import did_you_mean
from ..core.serializers import EncryptedSerializer, MessagePackSerializer, Serializer
from .factory import layer_factories
from .settings import LARGEST_COUNT, ConfigError, ConfigWarning, LayerFactory, Settings, invalid_value

Check = Callable[[str, Any], Any]
"""Returns the setting for the value of a key. Raises `ConfigError`."""

_LONGEST = 10**9
"""Seconds that every broker and every clock can count."""


def read_config(
    config: Mapping[str, Any],
    warnings: Iterable[ConfigWarning] = (),
    factories: Sequence[LayerFactory] = (),
) -> Settings:
    """Check every key and value; ``factories`` take the place of what CONFIG says of brokers.

    Raises `ConfigError`, or `MissingDriver`, which names the extra to install.
    """
    known = f"The keys are {', '.join(sorted(KEYS))}; a layer's own keyword arguments belong under 'options'."
    refuse_unknown_keys(config, KEYS, known)
    values = {key: check(key, config[key]) for key, check in _VALUES.items() if key in config}
    serializer = _serializer(config.get("symmetric_encryption_keys"))
    settings = Settings(
        layer_factories=tuple(factories)
        or tuple(
            layer_factories(
                config,
                serializer,
                prefix=values.get("prefix", Settings.prefix),
                max_message_size=values.get("max_message_size", Settings.max_message_size),
            )
        ),
        serializer=serializer,
        warnings=tuple(warnings),
        database=config.get("database"),
        **values,
    )
    if settings.acknowledged:
        _require_acknowledgement(settings)
    return settings


def refuse_unknown_keys(config: Mapping[str, Any], keys: Iterable[str], known: str) -> None:
    """Raise `ConfigError` for a key that is not among ``keys``; its hint is the nearest one, or else ``known``."""
    for key in sorted(set(config) - set(keys), key=repr):
        raise ConfigError(
            f"CONFIG has an unknown key {key!r}.", hint=did_you_mean(key, keys, otherwise=known), code="E001"
        )


def _seconds(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LONGEST:
        raise invalid_value(key, value, f"a number of seconds above 0 and up to {_LONGEST}, which is thirty years")
    return value


def _count(unit: str) -> Check:
    def check(key: str, value: Any) -> int:
        if not _is_count(value):
            raise invalid_value(key, value, f"a whole number of {unit}, 1 or more and up to {LARGEST_COUNT}")
        return value

    return check


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= LARGEST_COUNT


def _prefix(key: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise invalid_value(key, value, "a non-empty str of printable ASCII characters without spaces")
    return value


def _channel_capacity(key: str, value: Any) -> tuple[tuple[re.Pattern[str], int], ...]:
    compiled = [(_pattern(name), count) for name, count in value.items()] if isinstance(value, Mapping) else [(None, 0)]
    checked = tuple((pattern, count) for pattern, count in compiled if pattern is not None and _is_count(count))
    if len(checked) < len(compiled):
        wanted = "a dict from channel name, glob or compiled regular expression to a capacity from 1 to"
        raise invalid_value(key, value, f"{wanted} {LARGEST_COUNT}")
    return checked


def _acknowledged(key: str, value: Any) -> tuple[re.Pattern[str], ...]:
    compiled = [_pattern(name) for name in value] if isinstance(value, (list, tuple)) else [None]
    checked = tuple(pattern for pattern in compiled if pattern is not None)
    if len(checked) < len(compiled):
        wanted = "a list of channel names, globs or compiled regular expressions, such as ['thumbnails', 'mail.*']"
        raise invalid_value(key, value, wanted)
    return checked


def _pattern(name: Any) -> re.Pattern[str] | None:
    """Compile a channel name, a glob or a regular expression; None for anything else."""
    if isinstance(name, str):
        return re.compile(fnmatch.translate(name))
    return name if isinstance(name, re.Pattern) and isinstance(name.pattern, str) else None


def _outage_message(key: str, value: Any) -> str | None:
    # Channels turns dots into underscores, and refuses to call a method whose name begins with one.
    if value is not None and (not isinstance(value, str) or not value or value.startswith(("_", "."))):
        raise invalid_value(key, value, "None or the type of the message, such as 'chat.outage'")
    return value


_VALUES: dict[str, Check] = {
    "prefix": _prefix,
    "expiry": _seconds,
    "group_expiry": _seconds,
    "capacity": _count("messages"),
    "channel_capacity": _channel_capacity,
    "acknowledged": _acknowledged,
    "publish_timeout": _seconds,
    "max_message_size": _count("bytes"),
    "outage_message": _outage_message,
}

KEYS = ("url", "database", "layer", "options", "bridge", "symmetric_encryption_keys", *_VALUES)
"""Every key that CONFIG may have."""


def _serializer(keys: Any) -> Serializer:
    plain = MessagePackSerializer(only=dict)
    if keys is None or (isinstance(keys, (list, tuple)) and not keys):
        return plain
    try:
        return EncryptedSerializer(plain, keys)
    except ValueError as error:
        raise ConfigError(
            f"CONFIG['symmetric_encryption_keys'] cannot be used: {error}.",
            hint="Give a list: the first key encrypts, all of them decrypt.",
            code="E005",
        ) from None


def _require_acknowledgement(settings: Settings) -> None:
    try:
        require_acknowledgement(settings.layer_factories[0]())
    except NotSupported as error:
        raise ConfigError(
            f"CONFIG has 'acknowledged', but {error}.",
            hint="Name such a broker as 'url', or remove 'acknowledged': each message is then delivered once at most.",
            code="E002",
        ) from error
