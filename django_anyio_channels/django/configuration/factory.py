"""The layers that CONFIG describes: URL schemes, lists of brokers, custom layers, aliases of DATABASES, bridges.

No other file of ``django`` imports drivers. They are imported when they are needed, so that the error for a missing
package names the extra to install.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from django.utils.module_loading import import_string

from ...core.exceptions import InvalidOption, MissingDriver
from ...core.hints import did_you_mean
from ...core.layer import BaseChannelLayer
from ...core.options import TEXT, Option, instance_of, option_names, refuse_unknown_options
from ..settings import ConfigError, LayerFactory, Settings, check_key
from .databases import layer_arguments, unusable_database

LAYERS = {
    "memory": "memory.layer.InMemoryChannelLayer",
    **dict.fromkeys(
        ["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"],
        "redis.layer.RedisPubSubChannelLayer",
    ),
    **dict.fromkeys(
        [
            *("redis+streams", "rediss+streams", "unix+streams"),
            *("redis+streams+sentinel", "rediss+streams+sentinel", "redis+streams+cluster", "rediss+streams+cluster"),
        ],
        "redis.streams.layer.RedisStreamsChannelLayer",
    ),
    **dict.fromkeys(["postgresql", "postgres"], "postgres.layer.PostgreSQLChannelLayer"),
    **dict.fromkeys(["mqtt", "mqtts"], "mqtt.layer.MQTTChannelLayer"),
}
LAYERS |= {f"valkey{name.removeprefix('redis')}": layer for name, layer in LAYERS.items() if name.startswith("redis")}
"""URL scheme -> the layer's class, in ``django_anyio_channels.brokers``."""


def layer_class(scheme: str) -> type[BaseChannelLayer]:
    """Import the layer of a URL scheme. Raises `MissingDriver`."""
    module, _, name = LAYERS[scheme].rpartition(".")
    found: type[BaseChannelLayer] = getattr(import_module(f"...brokers.{module}", __package__), name)
    return found


def is_in_memory(layer: BaseChannelLayer) -> bool:
    """Return whether the messages of a layer stay in this process."""
    return isinstance(layer, layer_class("memory"))


def broker_kind(layer: BaseChannelLayer) -> str:
    """Return the first URL scheme of a layer's class, or "custom"."""
    name = f"{type(layer).__module__}.{type(layer).__qualname__}"
    package = __package__.rsplit(".", 2)[0]
    return next((scheme for scheme, path in LAYERS.items() if name == f"{package}.brokers.{path}"), "custom")


def table_definitions(schema: str, roles: Sequence[str]) -> tuple[str, str]:
    """Return the SQL that creates the tables of PostgreSQL's layer, and the SQL that drops them."""
    from ...brokers.postgres.tables import create_all, drop_all

    return create_all(schema, roles), drop_all(schema)


def layer_factories(config: Mapping[str, Any], settings: Settings) -> list[LayerFactory]:
    """Return a factory for each broker of CONFIG. Raises `ConfigError` and `MissingDriver`."""
    options = config.get("options", {})
    check_key("options", options, instance_of(Mapping, wanted="a dict of the layer's keyword arguments"))
    both = [repr(key) for key in ("url", "layer", "database") if key in config]
    if len(both) > 1:
        raise ConfigError(
            f"CONFIG has both {' and '.join(both)}.",
            hint="Keep 'url' for a broker of this package, 'database' for the PostgreSQL of an alias of DATABASES, "
            "or 'layer' (and 'options') for a custom layer.",
            code="E002",
        )
    if "url" in config and "url" in options:
        raise ConfigError(
            "CONFIG has 'url' twice: beside 'options', and in it.", hint="Remove the one in 'options'.", code="E002"
        )
    url = config.get("url", "memory://")
    if "bridge" in config:
        options = {**options, "bridge": _bridge(url, config["bridge"], settings)}
    if "database" in config:
        return [_database_layer_factory(config["database"], options)]
    if "layer" in config:
        return _scoped([_layer_factory(_custom_layer(config["layer"]), options)], settings.names.prefix)
    urls = url if isinstance(url, (list, tuple)) else [url]
    _check_broker_list(urls)
    factories = [_layer_factory(_layer_of_url(each), {"url": each, **options}) for each in urls]
    return _scoped(factories, settings.names.prefix)


def _scoped(factories: list[LayerFactory], prefix: str) -> list[LayerFactory]:
    """Return factories whose layers have no options that one connection alone may have."""
    for make_layer in factories:
        try:
            make_layer().set_scope(prefix)
        except ValueError as error:
            raise ConfigError(f"CONFIG cannot be used: {error}.", hint="Remove them.", code="E003") from error
    return factories


def _layer_factory(found: type[BaseChannelLayer], arguments: Mapping[str, Any]) -> LayerFactory:
    if issubclass(found, layer_class("memory")):
        from ...brokers.memory.broker import InMemoryBroker

        arguments = {"broker": InMemoryBroker(), **arguments}
    return _checked_factory(found, lambda: arguments)


def _database_layer_factory(alias: Any, options: Mapping[str, Any]) -> LayerFactory:
    check_key("database", alias, Option(TEXT.is_valid, "an alias of DATABASES, such as 'default'"))
    # Read again for each layer: Django's test runner puts the test database there later.
    return _checked_factory(
        layer_class("postgresql"), lambda: layer_arguments(alias, options), partial(unusable_database, alias)
    )


def _checked_factory(
    found: type[BaseChannelLayer],
    arguments: Callable[[], Mapping[str, Any]],
    explain: Callable[[ValueError], ConfigError] | None = None,
) -> LayerFactory:
    """Return the factory of a layer whose arguments are good; that shows when one is made.

    ``explain`` makes the error for a value that no option of CONFIG has.
    """
    make_layer = LayerFactory(found, arguments)
    try:
        if not any(each.kind is each.VAR_KEYWORD for each in inspect.signature(found).parameters.values()):
            refuse_unknown_options(found.__name__, arguments(), option_names(found))
        make_layer()
    except InvalidOption as error:
        message = f"{found.__name__} cannot be made from CONFIG: {error.problem}"
        raise ConfigError(message, hint=error.cure, code="E003") from error
    except (TypeError, ValueError) as error:
        if explain is not None and isinstance(error, ValueError):
            raise explain(error) from None
        raise ConfigError(
            f"{found.__name__} cannot be made from CONFIG: {error}",
            hint="Correct 'url' or 'options'; the documentation of the layer lists what it takes.",
            code="E003",
        ) from error
    return make_layer


def _layer_of_url(url: Any) -> type[BaseChannelLayer]:
    check_key("url", url, Option(TEXT.is_valid, "a str such as 'redis://localhost:6379', or a list of them"))
    scheme = _scheme(url)
    if scheme is None:
        word = re.split("[:/]", url)[0].lower()
        example = f"{word if word in LAYERS else 'redis'}://localhost"
        raise ConfigError("CONFIG['url'] has no scheme.", hint=f"Begin it like {example!r}.", code="E003")
    if scheme not in LAYERS:
        nearest = did_you_mean(scheme, LAYERS, otherwise=f"The schemes are {', '.join(LAYERS)}.")
        raise ConfigError(
            f"CONFIG['url'] has the unknown scheme {scheme!r}.",
            hint="Write unix:///path/to/redis.sock." if scheme.endswith("+socket") else nearest,
            code="E003",
        )
    return layer_class(scheme)


def _scheme(url: str) -> str | None:
    # Not urlsplit: it refuses the brackets of a list of IPv6 addresses, which some layers take.
    match = re.match("([a-z][a-z0-9+.-]*)://", url, re.IGNORECASE)
    return match[1].lower() if match else None


def _check_broker_list(urls: Sequence[Any]) -> None:
    if not urls:
        raise ConfigError("CONFIG['url'] is an empty list.", hint="Name at least one broker.", code="E003")
    kinds = {_layer_of_url(url): url for url in urls}
    if len(kinds) > 1:
        schemes = ", ".join(str(_scheme(url)) for url in kinds.values())
        raise ConfigError(
            f"CONFIG['url'] lists brokers of different kinds: {schemes}.",
            hint="Name one broker, or several of one kind.",
            code="E003",
        )
    repeated = [url for url in urls if urls.count(url) > 1 and _scheme(url) != "memory"]
    if repeated:
        # Not the URL itself: it may hold a password.
        raise ConfigError(
            f"CONFIG['url'] lists the broker at place {urls.index(repeated[0]) + 1} twice.",
            hint="Name each broker once.",
            code="E003",
        )


def _custom_layer(path: Any) -> type[BaseChannelLayer]:
    wanted = "the dotted path of a subclass of django_anyio_channels.BaseChannelLayer, or the class itself"
    hint = f"Give {wanted}."
    check_key("layer", path, Option(lambda path: not isinstance(path, str) or _is_dotted_path(path), wanted))
    try:
        found = import_string(path) if isinstance(path, str) else path
    except MissingDriver:
        raise
    except (ImportError, TypeError, ValueError) as error:  # the last two for a path that begins with a dot
        raise ConfigError(f"CONFIG['layer'] cannot be imported: {error}", hint=hint, code="E003") from error
    if not (inspect.isclass(found) and issubclass(found, BaseChannelLayer)):
        kind = found.__name__ if inspect.isclass(found) else type(found).__name__
        raise ConfigError(f"CONFIG['layer'] is not a layer ({kind}).", hint=hint, code="E003")
    return found


def _is_dotted_path(path: str) -> bool:
    return re.fullmatch(r"[\w.]+", path) is not None


def _bridge(url: Any, rules: Any, settings: Settings) -> object:
    if not isinstance(url, str) or _scheme(url) not in ("mqtt", "mqtts"):
        raise ConfigError(
            "CONFIG has 'bridge', which joins groups with the topics of one MQTT broker.",
            hint="Name one mqtt:// or mqtts:// broker as 'url', or remove 'bridge'.",
            code="E002",
        )
    from ...brokers.mqtt.bridge import Bridge

    try:
        return Bridge(rules, settings.names.groups, settings.serializer, settings.max_message_size, settings.encryption)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"CONFIG['bridge'] cannot be used: {error}",
            hint="It maps groups to topics, such as {'kitchen': 'home/kitchen/temperature'}.",
            code="E005",
        ) from error
