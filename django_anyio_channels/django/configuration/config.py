"""Reads and validates CONFIG of ``CHANNEL_LAYERS``."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from json import JSONEncoder
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from ...core.capabilities import require_acknowledgement
from ...core.encryption import Encryption
from ...core.exceptions import InvalidOption, NotSupported
from ...core.hints import did_you_mean
from ...core.options import FLAG, LARGEST_COUNT, SECONDS, Option, count, seconds
from ...core.serializers import MessagePackSerializer
from ...hub.overflow import WANTED, read_overflow
from ...hub.subscriber import Overflow
from ..messages.closing import CLOSE_SLOW
from ..settings import ConfigError, ConfigWarning, LayerFactory, Settings, check_key, without_lazy_strings
from ..telemetry.install import NAMES, require_packages
from .factory import layer_factories

_APP = "django_anyio_channels"


def read_config(
    config: Mapping[str, Any],
    warnings: Iterable[ConfigWarning] = (),
    factories: Sequence[LayerFactory] = (),
) -> Settings:
    """Check every key and value; ``factories`` take the place of what CONFIG says of brokers.

    Raises `ConfigError`, or `MissingDriver`, which names the extra to install.
    """
    config = without_lazy_strings(config)
    known = f"The keys are {', '.join(sorted(KEYS))}; a layer's own keyword arguments belong under 'options'."
    refuse_unknown_keys(config, KEYS, known, CURES)
    default = _default(config.get("encoder"))
    settings = Settings(
        serializer=MessagePackSerializer(only=dict, default=default),
        json_default=default,
        encryption=_encryption(config.get("symmetric_encryption_keys")),
        warnings=tuple(warnings),
        database=config.get("database"),
        **{key: _read_value(key, config[key]) for key in _VALUES if key in config},
    )
    settings = replace(settings, layer_factories=tuple(factories or layer_factories(config, settings)))
    require_packages(settings.telemetry)
    if settings.acknowledged:
        _require_acknowledgement(settings)
    if settings.close_on and apps.apps_ready and not apps.is_installed(_APP):
        raise ConfigError(
            "CONFIG has 'close_on', but nothing connects it to Django's signals.",
            hint=f"Add {_APP!r} to INSTALLED_APPS, or remove 'close_on'.",
            code="E002",
        )
    return settings


def refuse_unknown_keys(config: Mapping[str, Any], keys: Iterable[str], known: str, cures: Mapping[str, str]) -> None:
    """Raise `ConfigError` for a key that is not among ``keys``; its hint is the nearest one, or else ``known``."""
    for key in sorted(set(config) - set(keys), key=repr):
        hint = cures.get(key) or did_you_mean(key, keys, otherwise=known)
        raise ConfigError(f"CONFIG has an unknown key {key!r}.", hint=hint, code="E001")


def misplaced_keys(alias: str, entry: Mapping[str, Any]) -> list[ConfigError]:
    """Return an error for each key of an entry of ``CHANNEL_LAYERS`` that Channels ignores."""
    where = f"CHANNEL_LAYERS[{alias!r}]"
    return [
        ConfigError(
            f"{where} has the key {key!r}, which Channels ignores.",
            hint=f"Move it into {where}['CONFIG']. "
            + ("" if key in KEYS else CURES.get(key) or did_you_mean(key, KEYS)),
            code="E007",
        )
        for key in entry
        if key not in ("BACKEND", "CONFIG", "TEST_CONFIG")
    ]


def refuse_misplaced_keys(backend: type) -> None:
    """Raise `ConfigError` if settings for ``backend`` stand beside CONFIG; servers run no system checks."""
    layers = getattr(django_settings, "CHANNEL_LAYERS", None) if django_settings.configured else None
    for alias, entry in (layers or {}).items():
        if str(entry.get("BACKEND")).rpartition(".")[2] == backend.__name__:
            for error in misplaced_keys(alias, entry):
                raise error


def _read_value(key: str, value: Any) -> Any:
    check_key(key, value, _VALUES[key])
    return _CONVERSIONS[key](value) if key in _CONVERSIONS else value


def _is_prefix(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[!-~]+", value) is not None


def _is_message_type(value: Any) -> bool:
    # Channels turns dots into underscores, and refuses to call a method whose name begins with one.
    return value is None or (isinstance(value, str) and value != "" and not value.startswith(("_", ".")))


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, re.Pattern) and isinstance(value.pattern, str))


def _are_patterns(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_pattern, value))


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _are_capacities(value: Any) -> bool:
    return _are_by_pattern(value) and all(map(_MESSAGES.is_valid, value.values()))


def _are_by_pattern(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_pattern, value))


def _read_overflow(value: Any) -> tuple[tuple[re.Pattern[str], Overflow | None], ...]:
    try:
        return tuple((_compile(pattern), read_overflow(each, close=CLOSE_SLOW)) for pattern, each in value.items())
    except InvalidOption as error:
        raise ConfigError(f"CONFIG['overflow']: {error.problem}", hint=error.cure, code="E005") from None


def _compile(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern)) if isinstance(pattern, str) else pattern


_MESSAGES = count("messages")
_ENCODER = Option(
    lambda value: inspect.isclass(value) and issubclass(value, JSONEncoder),
    "the dotted path of a subclass of json.JSONEncoder, such as 'django.core.serializers.json.DjangoJSONEncoder'",
)

_VALUES = {
    "prefix": Option(_is_prefix, "a non-empty str of printable ASCII characters without spaces"),
    "expiry": SECONDS,
    "group_expiry": SECONDS,
    "capacity": _MESSAGES,
    "channel_capacity": Option(
        _are_capacities,
        "a dict from channel name, glob or compiled regular expression to a capacity "
        f"from 1 to {LARGEST_COUNT:,}, such as {{'thumbnails': 1000}}",
    ),
    "overflow": Option(
        _are_by_pattern,
        f"a dict from channel name, glob or compiled regular expression to what happens to messages for a full "
        f"mailbox: {WANTED}",
    ),
    "acknowledged": Option(
        _are_patterns,
        "a list of channel names, globs or compiled regular expressions, such as ['thumbnails', 'mail.*']",
    ),
    "publish_timeout": SECONDS,
    "max_message_size": count("bytes"),
    "mailbox_bytes": count("bytes"),
    "fast_dispatch": FLAG,
    "drain_seconds": seconds(zero=True, most=3600),
    "presence_grace": seconds(zero=True, most=3600),
    "telemetry": Option(
        lambda value: all(name in NAMES for name in _as_list(value)),
        f"a list of {' and '.join(map(repr, NAMES))}, or one of them",
    ),
    "outage_message": Option(_is_message_type, "None or the type of the message, such as 'chat.outage'"),
}

CLOSE_ON = ("logout", "password_changed", "deactivated")
"""What ``close_on`` may name."""

_VALUES["close_on"] = Option(
    lambda value: isinstance(value, (list, tuple)) and all(each in CLOSE_ON for each in value),
    f"a list of {', '.join(map(repr, CLOSE_ON))}",
)

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "channel_capacity": lambda capacities: tuple((_compile(pattern), each) for pattern, each in capacities.items()),
    "overflow": _read_overflow,
    "acknowledged": lambda patterns: tuple(map(_compile, patterns)),
    "close_on": tuple,
    "telemetry": lambda names: tuple(dict.fromkeys(_as_list(names))),
}

KEYS = ("url", "database", "layer", "options", "bridge", "encoder", "symmetric_encryption_keys", *_VALUES)
"""Every key that CONFIG may have."""

_SHIM = "'django_anyio_channels.channels_redis.RedisChannelLayer'"
CURES = {
    "hosts": f"Name the broker by 'url', such as 'redis://localhost:6379', or keep 'hosts' and set BACKEND to {_SHIM}.",
    **dict.fromkeys(
        ["on_reconnect", "on_disconnect", "random_prefix_length", "serializer_format"],
        f"Remove it, or keep the CONFIG of channels_redis and set BACKEND to {_SHIM}.",
    ),
    **dict.fromkeys(["location", "LOCATION"], "Did you mean 'url'?"),
}
"""For keys of channels_redis, and of Django's CACHES."""


def _default(encoder: Any) -> Callable[[Any], Any] | None:
    try:
        found = import_string(encoder) if isinstance(encoder, str) else encoder
    except (ImportError, ValueError) as error:  # the latter for a path that begins with a dot
        hint = f"It must be {_ENCODER.wanted}."
        raise ConfigError(f"CONFIG['encoder'] cannot be imported: {error}.", hint=hint, code="E005") from error
    if found is None:
        return None
    check_key("encoder", found, _ENCODER)
    return found().default  # type: ignore[no-any-return]


def _encryption(keys: Any) -> Encryption | None:
    if keys is None or (isinstance(keys, (list, tuple)) and not keys):
        return None
    try:
        return Encryption(keys)
    except ValueError as error:
        raise ConfigError(
            f"CONFIG['symmetric_encryption_keys'] cannot be used: {error}",
            hint="Give a list: the first key encrypts, all of them decrypt.",
            code="E005",
        ) from None


def _require_acknowledgement(settings: Settings) -> None:
    try:
        require_acknowledgement(settings.layer_factories[0]())
    except NotSupported as error:
        raise ConfigError(
            f"CONFIG has 'acknowledged', but {error}",
            hint="Name such a broker as 'url', or remove 'acknowledged': each message is then delivered once at most.",
            code="E002",
        ) from error
