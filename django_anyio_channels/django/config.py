"""What stands under CONFIG in CHANNEL_LAYERS, read, checked, and turned into a layer."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeGuard

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..brokers.memory.broker import InMemoryBroker
from ..brokers.memory.layer import InMemoryChannelLayer
from ..core.capabilities import require_acknowledgement
from ..core.exceptions import MissingDriver, NotSupported
from ..core.layer import BaseChannelLayer
from ..core.serializers import EncryptedSerializer, MessagePackSerializer, Serializer, encode_limited
from .databases import UnusableDatabase, layer_arguments
from .names import Naming

LAYERS = {
    "memory": "django_anyio_channels.brokers.memory.layer.InMemoryChannelLayer",
    "postgresql": "django_anyio_channels.brokers.postgres.layer.PostgreSQLChannelLayer",
    "postgres": "django_anyio_channels.brokers.postgres.layer.PostgreSQLChannelLayer",
    "redis": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "rediss": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "unix": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "redis+sentinel": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "rediss+sentinel": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "redis+cluster": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "rediss+cluster": "django_anyio_channels.brokers.redis.layer.RedisPubSubChannelLayer",
    "mqtt": "django_anyio_channels.brokers.mqtt.layer.MQTTChannelLayer",
    "mqtts": "django_anyio_channels.brokers.mqtt.layer.MQTTChannelLayer",
    "redis+streams": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
    "rediss+streams": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
    "unix+streams": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
    "redis+streams+sentinel": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
    "rediss+streams+sentinel": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
    "redis+streams+cluster": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
    "rediss+streams+cluster": "django_anyio_channels.brokers.redis.streams.layer.RedisStreamsChannelLayer",
}
"""URL scheme -> the layer's dotted path."""


class ConfigError(ImproperlyConfigured):
    """A setting that cannot be used; `hint` says what to write instead, `code` which system check finds it."""

    def __init__(self, message: str, *, hint: str, code: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint
        self.code = code


class Note(NamedTuple):
    """Something in CONFIG that does nothing, and what to write instead."""

    message: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that an `AnyioChannelLayer` is told."""

    make_layers: Callable[[], Sequence[BaseChannelLayer]]
    """Make a new driver for each broker; every event loop has its own."""

    serializer: Serializer
    prefix: str = "asgi"
    expiry: float = 60.0
    group_expiry: float = 86400.0
    capacity: int = 100
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...] = ()
    acknowledged: tuple[re.Pattern[str], ...] = ()
    publish_timeout: float = 10.0
    max_message_size: int = 4 * 1024 * 1024
    outage_message: str | None = None
    notes: tuple[Note, ...] = ()
    database: str | None = None
    """The alias of DATABASES whose server is the broker."""

    def capacity_of(self, channel: str) -> int:
        """The capacity of the first pattern that matches, or the general one."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def is_acknowledged(self, channel: str) -> bool:
        """Whether what is sent to this normal channel comes again until it is acknowledged."""
        return any(pattern.match(channel) for pattern in self.acknowledged)

    def encode(self, message: Any) -> bytes:
        """The frame of a message. Raises `TypeError` and `PayloadTooLarge`."""
        return encode_limited(self.max_message_size, self.serializer, message)


def read_config(
    config: Mapping[str, Any],
    notes: tuple[Note, ...] = (),
    makers: Sequence[Callable[[], BaseChannelLayer]] = (),
) -> Settings:
    """Check every key and value. Raises `ConfigError`, or `MissingDriver` naming the extra to install."""
    known = f"The keys are {', '.join(sorted(KEYS))}; a layer's own keyword arguments belong under 'options'."
    refuse_unknown_keys(config, KEYS, known)
    values = {key: check(config[key]) for key, check in _VALUES.items() if key in config}
    serializer = _serializer(config)
    bridge = _bridge(config, serializer) if "bridge" in config else {}
    make_layers = _all_of(makers) if makers else _layers_factory(config, bridge)
    if values.get("acknowledged"):
        _refuse_without_acknowledging(make_layers()[0])
    return Settings(
        make_layers=make_layers,
        serializer=serializer,
        notes=notes,
        database=config.get("database"),
        **values,
    )


def refuse_unknown_keys(config: Mapping[str, Any], keys: Sequence[str], known: str) -> None:
    """Raise `ConfigError` for a key that is not among ``keys``; its hint is the nearest one, or else ``known``."""
    for key in sorted(set(config) - set(keys), key=repr):
        nearest = difflib.get_close_matches(str(key), keys, n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else known
        raise ConfigError(f"CONFIG has an unknown key {key!r}.", hint=hint, code="E001")


# ---- values ---------------------------------------------------------------------------------------------------------


def _wrong(key: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"CONFIG[{key!r}] is {value!r}.", hint=f"It must be {wanted}.", code="E005")


# What every broker, and every clock that waits, has digits for.
_LONGEST = 10**9
LARGEST_COUNT = 2**31 - 1
"""The largest capacity that every broker takes."""


def _seconds(key: str) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LONGEST:
            raise _wrong(key, value, f"a number of seconds above 0 and up to {_LONGEST}, which is thirty years")
        return value

    return check


def _count(key: str, unit: str) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not _is_count(value):
            raise _wrong(key, value, f"a whole number of {unit}, 1 or more and up to {LARGEST_COUNT}")
        return value

    return check


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= LARGEST_COUNT


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise _wrong("prefix", value, "a non-empty str of printable ASCII characters without spaces")
    return value


def _channel_capacity(value: Any) -> tuple[tuple[re.Pattern[str], int], ...]:
    wanted = f"a dict from channel name, glob or compiled regular expression to a capacity from 1 to {LARGEST_COUNT}"
    if not isinstance(value, Mapping):
        raise _wrong("channel_capacity", value, wanted)
    compiled = []
    for name, capacity in value.items():
        pattern = _pattern(name)
        if pattern is None or not _is_count(capacity):
            raise _wrong("channel_capacity", value, wanted)
        compiled.append((pattern, capacity))
    return tuple(compiled)


def _pattern(name: Any) -> re.Pattern[str] | None:
    """What a channel name, a glob or a compiled regular expression matches; None for anything else."""
    if isinstance(name, str):
        return re.compile(fnmatch.translate(name))
    return name if isinstance(name, re.Pattern) and isinstance(name.pattern, str) else None


def _acknowledged(value: Any) -> tuple[re.Pattern[str], ...]:
    wanted = "a list of channel names, globs or compiled regular expressions, such as ['thumbnails', 'mail.*']"
    if not isinstance(value, (list, tuple)):
        raise _wrong("acknowledged", value, wanted)
    patterns = [_pattern(name) for name in value]
    if None in patterns:
        raise _wrong("acknowledged", value, wanted)
    return tuple(pattern for pattern in patterns if pattern is not None)


def _outage_message(value: Any) -> str | None:
    # Channels turns dots into underscores, and refuses to call a method whose name begins with one.
    if value is not None and (not isinstance(value, str) or not value or value.startswith(("_", "."))):
        raise _wrong("outage_message", value, "None or the type of the message, such as 'chat.outage'")
    return value


_VALUES: dict[str, Callable[[Any], Any]] = {
    "prefix": _prefix,
    "expiry": _seconds("expiry"),
    "group_expiry": _seconds("group_expiry"),
    "capacity": _count("capacity", "messages"),
    "channel_capacity": _channel_capacity,
    "acknowledged": _acknowledged,
    "publish_timeout": _seconds("publish_timeout"),
    "max_message_size": _count("max_message_size", "bytes"),
    "outage_message": _outage_message,
}

KEYS = ("url", "database", "layer", "options", "bridge", "symmetric_encryption_keys", *_VALUES)
"""Every key that CONFIG may have."""


def _serializer(config: Mapping[str, Any]) -> Serializer:
    keys = config.get("symmetric_encryption_keys")
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


def _bridge(config: Mapping[str, Any], serializer: Serializer) -> dict[str, Any]:
    url = config.get("url")
    if not isinstance(url, str) or _scheme(url) not in ("mqtt", "mqtts"):
        raise ConfigError(
            "CONFIG has 'bridge', which joins groups with the topics of one MQTT broker.",
            hint="Name one mqtt:// or mqtts:// broker as 'url', or remove 'bridge'.",
            code="E002",
        )
    from ..brokers.mqtt.bridge import Bridge

    prefix, limit = config.get("prefix", Settings.prefix), config.get("max_message_size", Settings.max_message_size)
    try:
        return {"bridge": Bridge(config["bridge"], Naming(prefix).groups, serializer, limit)}
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"CONFIG['bridge'] cannot be used: {error}.",
            hint="It maps groups to topics, such as {'kitchen': 'home/kitchen/temperature'}.",
            code="E005",
        ) from error


# ---- the layer ------------------------------------------------------------------------------------------------------


def _layers_factory(config: Mapping[str, Any], bridge: Mapping[str, Any]) -> Callable[[], Sequence[BaseChannelLayer]]:
    options = config.get("options", {})
    if not isinstance(options, Mapping):
        raise _wrong("options", options, "a dict of the layer's keyword arguments")
    both = [repr(key) for key in ("url", "layer", "database") if key in config]
    if len(both) > 1:
        raise ConfigError(
            f"CONFIG has both {' and '.join(both)}.",
            hint="Keep 'url' for a broker of this package, 'database' for the PostgreSQL of an alias of DATABASES, "
            "or 'layer' (and 'options') for a layer of your own.",
            code="E002",
        )
    if "database" in config:
        return _all_of([_database_layer_factory(config["database"], options)])
    if "url" in config and "url" in options:
        raise ConfigError(
            "CONFIG has 'url' twice, beside 'options' and in it.", hint="Keep the one beside 'options'.", code="E002"
        )
    if "layer" in config:
        return _all_of([_one_layer(_custom_layer(config["layer"]), {**options})])
    url = config.get("url", "memory://")
    if not isinstance(url, (list, tuple)):
        return _all_of([_one_layer(_layer_of_url(url), {"url": url, **options, **bridge})])
    return _all_of([_one_layer(_layer_of_url(each), {"url": each, **options}) for each in _several(url)])


def _refuse_without_acknowledging(layer: BaseChannelLayer) -> None:
    try:
        require_acknowledgement(layer)
    except NotSupported as error:
        raise ConfigError(
            f"CONFIG has 'acknowledged', but {error}.",
            hint="Name such a broker as 'url', or remove 'acknowledged': messages then go to a reader at most once.",
            code="E002",
        ) from error


def _one_layer(layer_class: type[BaseChannelLayer], arguments: dict[str, Any]) -> Callable[[], BaseChannelLayer]:
    if issubclass(layer_class, InMemoryChannelLayer):
        arguments.setdefault("broker", InMemoryBroker())
    _check_arguments(layer_class, arguments)

    def make_layer() -> BaseChannelLayer:
        return layer_class(**arguments)

    return make_layer


def _several(urls: Sequence[Any]) -> Sequence[Any]:
    if not urls:
        raise ConfigError("CONFIG['url'] is an empty list.", hint="Name at least one broker.", code="E003")
    kinds = {_layer_of_url(url): url for url in urls}
    if len(kinds) > 1:
        raise ConfigError(
            f"CONFIG['url'] lists brokers of different kinds: {', '.join(_scheme(url) for url in kinds.values())}.",
            hint="Name one broker, or several of one kind.",
            code="E003",
        )
    twice = [url for url in urls if urls.count(url) > 1 and _scheme(url) != "memory"]
    if twice:
        raise ConfigError(
            f"CONFIG['url'] lists the broker at place {urls.index(twice[0]) + 1} twice.",
            hint="Name each broker once.",
            code="E003",
        )
    return urls


def _all_of(makers: Sequence[Callable[[], BaseChannelLayer]]) -> Callable[[], Sequence[BaseChannelLayer]]:
    return lambda: [make() for make in makers]


def _database_layer_factory(alias: Any, options: Mapping[str, Any]) -> Callable[[], BaseChannelLayer]:
    """Each layer looks into DATABASES when it is made, hence finds the test database there if there is one."""
    if not isinstance(alias, str):
        raise _wrong("database", alias, "an alias of DATABASES, such as 'default'")
    layer_class = _layer_of_url("postgresql://")

    def make_layer() -> BaseChannelLayer:
        return layer_class(**layer_arguments(alias, options))

    try:
        _check_arguments(layer_class, layer_arguments(alias, options))
    except UnusableDatabase as error:
        raise ConfigError(str(error), hint=error.hint, code="E008") from error
    return make_layer


def _layer_of_url(url: Any) -> type[BaseChannelLayer]:
    known = ", ".join(f"{scheme}://" for scheme in LAYERS)
    if not isinstance(url, str):
        raise _wrong("url", url, f"a str such as 'memory://', or a list of such; the schemes are {known}")
    scheme = _scheme(url)
    if scheme not in LAYERS:
        nearest = difflib.get_close_matches(scheme, LAYERS, n=1)
        raise ConfigError(
            f"CONFIG['url'] has the unknown scheme {scheme!r}.",
            hint=f"Did you mean {nearest[0]}://?" if nearest else f"The schemes are {known}.",
            code="E003",
        )
    module, _, name = LAYERS[scheme].rpartition(".")
    layer_class: type[BaseChannelLayer] = getattr(import_module(module), name)
    return layer_class


def _scheme(url: str) -> str:
    # Not urlsplit: it refuses the brackets of a list of IPv6 addresses, which some layers take.
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def _custom_layer(path: Any) -> type[BaseChannelLayer]:
    hint = "Give the dotted path of a subclass of django_anyio_channels.BaseChannelLayer, or the class itself."
    try:
        layer_class = import_string(path) if isinstance(path, str) else path
    except MissingDriver:
        raise
    except (ImportError, TypeError, ValueError) as error:  # the last two for a path that begins with a dot
        raise ConfigError(f"CONFIG['layer'] cannot be imported: {error}.", hint=hint, code="E003") from error
    if not (inspect.isclass(layer_class) and issubclass(layer_class, BaseChannelLayer)):
        raise ConfigError(f"CONFIG['layer'] is {path!r}, which is no layer.", hint=hint, code="E003")
    return layer_class


def _check_arguments(layer_class: type[BaseChannelLayer], arguments: Mapping[str, Any]) -> None:
    try:
        layer_class(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{layer_class.__name__} cannot be made from CONFIG: {error}.",
            hint="Correct 'url' or 'options'; the documentation of the layer lists what it takes. "
            "Percent-encode what is special in user names and passwords.",
            code="E003",
        ) from error
