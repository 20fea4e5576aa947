"""Reads and validates CONFIG of ``CHANNEL_LAYERS``."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from json import JSONEncoder
from typing import Any, NamedTuple

from django.utils.module_loading import import_string

from ..core.capabilities import require_acknowledgement
from ..core.encryption import Encryption
from ..core.exceptions import NotSupported
from ..core.hints import did_you_mean
from ..core.serializers import MessagePackSerializer
from .factory import layer_factories
from .settings import LARGEST_COUNT, ConfigError, ConfigWarning, LayerFactory, Settings, invalid_value

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
    settings = Settings(
        serializer=MessagePackSerializer(only=dict, default=_default(config.get("encoder"))),
        encryption=_encryption(config.get("symmetric_encryption_keys")),
        warnings=tuple(warnings),
        database=config.get("database"),
        **{key: _read_value(key, config[key]) for key in _VALUES if key in config},
    )
    settings = replace(settings, layer_factories=tuple(factories or layer_factories(config, settings)))
    if settings.acknowledged:
        _require_acknowledgement(settings)
    return settings


def refuse_unknown_keys(config: Mapping[str, Any], keys: Iterable[str], known: str) -> None:
    """Raise `ConfigError` for a key that is not among ``keys``; its hint is the nearest one, or else ``known``."""
    for key in sorted(set(config) - set(keys), key=repr):
        raise ConfigError(
            f"CONFIG has an unknown key {key!r}.", hint=did_you_mean(key, keys, otherwise=known), code="E001"
        )


def _read_value(key: str, value: Any) -> Any:
    is_valid, wanted, convert = _VALUES[key]
    if not is_valid(value):
        raise invalid_value(key, value, wanted)
    return convert(value)


def _is_number_of_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LONGEST


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_COUNT


def _is_prefix(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[!-~]+", value) is not None


def _is_message_type(value: Any) -> bool:
    # Channels turns dots into underscores, and refuses to call a method whose name begins with one.
    return value is None or (isinstance(value, str) and value != "" and not value.startswith(("_", ".")))


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, re.Pattern) and isinstance(value.pattern, str))


def _are_patterns(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_pattern, value))


def _are_capacities(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_pattern, value)) and all(map(_is_count, value.values()))


def _compile(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern)) if isinstance(pattern, str) else pattern


class _Value(NamedTuple):
    """What the value of a key must be, and what it becomes."""

    is_valid: Callable[[Any], bool]
    wanted: str
    convert: Callable[[Any], Any] = lambda value: value


_SECONDS = _Value(_is_number_of_seconds, f"a number of seconds above 0 and up to {_LONGEST}, which is thirty years")
_COUNT = f"a whole number of {{}}, 1 or more and up to {LARGEST_COUNT}"

_VALUES = {
    "prefix": _Value(_is_prefix, "a non-empty str of printable ASCII characters without spaces"),
    "expiry": _SECONDS,
    "group_expiry": _SECONDS,
    "capacity": _Value(_is_count, _COUNT.format("messages")),
    "channel_capacity": _Value(
        _are_capacities,
        f"a dict from channel name, glob or compiled regular expression to a capacity from 1 to {LARGEST_COUNT}",
        lambda capacities: tuple((_compile(pattern), capacity) for pattern, capacity in capacities.items()),
    ),
    "acknowledged": _Value(
        _are_patterns,
        "a list of channel names, globs or compiled regular expressions, such as ['thumbnails', 'mail.*']",
        lambda patterns: tuple(map(_compile, patterns)),
    ),
    "publish_timeout": _SECONDS,
    "max_message_size": _Value(_is_count, _COUNT.format("bytes")),
    "outage_message": _Value(_is_message_type, "None or the type of the message, such as 'chat.outage'"),
}

KEYS = ("url", "database", "layer", "options", "bridge", "encoder", "symmetric_encryption_keys", *_VALUES)
"""Every key that CONFIG may have."""


def _default(encoder: Any) -> Callable[[Any], Any] | None:
    wanted = (
        "the dotted path of a subclass of json.JSONEncoder, such as 'django.core.serializers.json.DjangoJSONEncoder'"
    )
    try:
        found = import_string(encoder) if isinstance(encoder, str) else encoder
    except (ImportError, ValueError) as error:  # the latter for a path that begins with a dot
        raise ConfigError(
            f"CONFIG['encoder'] cannot be imported: {error}.", hint=f"It must be {wanted}.", code="E005"
        ) from error
    if found is None:
        return None
    if not (inspect.isclass(found) and issubclass(found, JSONEncoder)):
        raise invalid_value("encoder", encoder, wanted)
    return found().default


def _encryption(keys: Any) -> Encryption | None:
    if keys is None or (isinstance(keys, (list, tuple)) and not keys):
        return None
    try:
        return Encryption(keys)
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
