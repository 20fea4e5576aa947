"""The CONFIG of ``channels_redis``, read unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from .core.exceptions import DecodeError
from .core.options import instance_of
from .core.serializers import MARKER, Serializer
from .django.configuration.config import read_config, refuse_unknown_keys
from .django.configuration.factory import layer_class
from .django.layer import AnyioChannelLayer
from .django.messages.envelope import Header, close_envelope
from .django.settings import ConfigError, ConfigWarning, LayerFactory, Settings, check_key, without_lazy_strings

DEFAULT_HOST = "redis://localhost:6379"

_SAME = ("prefix", "expiry", "group_expiry", "capacity", "channel_capacity", "symmetric_encryption_keys")
_NEW = ("publish_timeout", "max_message_size", "mailbox_bytes", "fast_dispatch", "outage_message", "encoder")
_WITHOUT_EFFECT = {
    "random_prefix_length": "Leave it out: messages need no random prefix, even equal ones.",
    "serializer_format": "Leave it out: messages are MessagePack, which holds all that JSON can.",
    "on_disconnect": "Use 'outage_message': consumers get it after a reconnect, with the length of the outage.",
}

KEYS = ("hosts", *_SAME, "on_reconnect", *_WITHOUT_EFFECT, *_NEW)
"""Every key that CONFIG may have."""

_HOST_AND_PORT = 2
_FORMS = (
    "Each host is a URL, (host, port), a dict with the 'address' or the arguments of redis-py's connections, "
    "or a dict with 'sentinels' and 'master_name'."
)


class RedisChannelLayer(AnyioChannelLayer):
    """`AnyioChannelLayer` over Redis, with the CONFIG of ``channels_redis``.

    It replaces ``channels_redis.core.RedisChannelLayer`` and ``channels_redis.pubsub.RedisPubSubChannelLayer`` as
    BACKEND. Several ``hosts`` share the names. ``on_reconnect`` becomes ``outage_message``. A key without effect causes
    a warning that names the replacement. This package's own ``publish_timeout``, ``max_message_size``,
    ``mailbox_bytes``, ``fast_dispatch``, ``outage_message`` and ``encoder`` may be added.
    """

    _message_pack: Serializer

    def serialize(self, message: Any) -> bytes:
        """Return the bytes of a message. A subclass that overrides this, or `deserialize`, decides what is sent."""
        return self._message_pack.encode(message)

    def deserialize(self, message: bytes) -> Any:
        """Return the message of what `serialize` returned. What it raises is logged, and the message dropped."""
        return self._message_pack.decode(message)

    def _read_settings(self, config: Mapping[str, Any]) -> Settings:
        settings = super()._read_settings(config)
        self._message_pack = settings.serializer
        own, theirs = RedisChannelLayer, type(self)
        if (theirs.serialize, theirs.deserialize) == (own.serialize, own.deserialize):
            return settings
        return replace(settings, serializer=_Hooks(self))

    def address_group(self, group: str, message: dict[str, Any]) -> tuple[str, bytes]:
        topic, payload = super().address_group(group, message)
        # MessagePack never begins so, but what `serialize` returns may.
        return topic, close_envelope(Header(), payload) if payload[:1] == MARKER else payload

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> Settings:
        config = without_lazy_strings(config)
        refuse_unknown_keys(config, KEYS, f"The keys are {', '.join(sorted(KEYS))}.", {})
        _refuse_registered_serializer(config.get("serializer_format"))
        own = {key: config[key] for key in (*_SAME, *_NEW) if key in config}
        if own.get("channel_capacity", {}) is None:
            del own["channel_capacity"]
        if config.get("on_reconnect") is not None:
            own.setdefault("outage_message", config["on_reconnect"])
        warnings = [
            ConfigWarning(f"CONFIG[{key!r}] has no effect.", hint)
            for key, hint in _WITHOUT_EFFECT.items()
            if config.get(key) is not None and (key, config[key]) != ("serializer_format", "msgpack")
        ]
        hosts = config.get("hosts") or [DEFAULT_HOST]
        check_key("hosts", hosts, instance_of(list, tuple, wanted=f"a list. {_FORMS}"))
        warnings += [
            ConfigWarning(f"CONFIG['hosts'][{place}] has {len(host)} items, of which only host and port count.", _FORMS)
            for place, host in enumerate(hosts)
            if isinstance(host, (list, tuple)) and len(host) > _HOST_AND_PORT
        ]
        return read_config(own, warnings, [_layer_factory(place, host) for place, host in enumerate(hosts)])

    async def close_pools(self) -> None:
        """`close`, by the name that it has in ``channels_redis``."""
        await self.close()


class _Hooks:
    """The serializer of a layer that overrides `RedisChannelLayer.serialize` or `RedisChannelLayer.deserialize`."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self._layer = layer

    def encode(self, message: Any) -> bytes:
        payload = self._layer.serialize(message)
        if not isinstance(payload, bytes):
            raise TypeError(f"{type(self._layer).__name__}.serialize returned {type(payload).__name__}, not bytes")
        return payload

    def decode(self, payload: bytes) -> Any:
        try:
            return self._layer.deserialize(payload)
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(f"{type(self._layer).__name__}.deserialize raised {error!r}") from error


def _refuse_registered_serializer(name: Any) -> None:
    if name not in (None, "json", "msgpack"):
        raise ConfigError(
            f"CONFIG['serializer_format'] is {name!r}, which is not a serializer.",
            hint="Name an 'encoder' for the objects that MessagePack has no type for, or override serialize and "
            "deserialize in a subclass of RedisChannelLayer.",
            code="E005",
        )


def _layer_factory(place: int, host: Any) -> LayerFactory:
    try:
        arguments = _arguments(host)
        make_layer = LayerFactory(layer_class("redis"), lambda: arguments)
        make_layer()
    except (TypeError, ValueError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"CONFIG['hosts'][{place}] cannot be used: {reason}", hint=_FORMS, code="E003") from error
    return make_layer


def _arguments(host: Any) -> dict[str, Any]:
    """Return the layer's keyword arguments for one entry of ``hosts``."""
    if isinstance(host, str):
        return {"url": host}
    if isinstance(host, (list, tuple)):
        if len(host) < _HOST_AND_PORT:
            raise ValueError("it has no port")
        return {"host": host[0], "port": host[1]}
    if not isinstance(host, Mapping):
        raise TypeError(f"{type(host).__name__} is not a host")
    rest = dict(host)
    if "address" in rest:
        address = rest.pop("address")
        if not isinstance(address, (str, list, tuple)):
            raise TypeError(f"'address' is {type(address).__name__}")
        return {**_arguments(address), **rest}
    if "master_name" in rest or "sentinels" in rest:
        return {"url": _sentinel_url(rest.pop("sentinels"), rest.pop("master_name")), **rest}
    return rest


def _sentinel_url(sentinels: Any, master: str) -> str:
    hosts = ",".join(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in sentinels)
    return f"redis+sentinel://{hosts}/{quote(master, safe='')}"
