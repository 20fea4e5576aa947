"""A Django Channels layer on an anyio publish/subscribe core with interchangeable brokers.

Importing this package imports no Django and no broker driver; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .event import Accepted, Event, Gap, GroupMessage, position_of
from .exceptions import (
    ChannelClosed,
    ChannelLayerError,
    DecodeError,
    DeliveryUnknown,
    InvalidPosition,
    ListenerClosed,
    MissingDriver,
    NotSupported,
    PayloadTooLarge,
    PositionLost,
    PublishRefused,
    QueueFull,
    SubscriptionRefused,
)
from .layers.base import BaseChannelLayer

if TYPE_CHECKING:
    from .adapter import AnyioChannelLayer
    from .channel import Channel
    from .layers.memory import InMemoryBroker, InMemoryChannelLayer
    from .layers.mqtt import MQTTChannelLayer
    from .layers.postgres import PostgreSQLChannelLayer
    from .layers.redis import RedisPubSubChannelLayer
    from .layers.redis_streams import RedisStreamsChannelLayer
    from .layers.sharded import ShardedChannelLayer
    from .link import Backoff
    from .resuming import AsyncResumingMixin, ResumingMixin, Resumption
    from .subscriber import Subscriber

_LAZY = {
    "AnyioChannelLayer": "adapter",
    "Backoff": "link",
    "Channel": "channel",
    "InMemoryBroker": "layers.memory",
    "InMemoryChannelLayer": "layers.memory",
    "PostgreSQLChannelLayer": "layers.postgres",
    "RedisPubSubChannelLayer": "layers.redis",
    "RedisStreamsChannelLayer": "layers.redis_streams",
    "ShardedChannelLayer": "layers.sharded",
    "MQTTChannelLayer": "layers.mqtt",
    "Subscriber": "subscriber",
    "AsyncResumingMixin": "resuming",
    "ResumingMixin": "resuming",
    "Resumption": "resuming",
}

__all__ = [
    "Accepted",
    "AnyioChannelLayer",
    "AsyncResumingMixin",
    "Backoff",
    "BaseChannelLayer",
    "Channel",
    "ChannelClosed",
    "ChannelLayerError",
    "DecodeError",
    "DeliveryUnknown",
    "Event",
    "Gap",
    "GroupMessage",
    "InMemoryBroker",
    "InMemoryChannelLayer",
    "InvalidPosition",
    "ListenerClosed",
    "MQTTChannelLayer",
    "MissingDriver",
    "NotSupported",
    "PayloadTooLarge",
    "PositionLost",
    "PostgreSQLChannelLayer",
    "PublishRefused",
    "QueueFull",
    "RedisPubSubChannelLayer",
    "RedisStreamsChannelLayer",
    "ResumingMixin",
    "Resumption",
    "ShardedChannelLayer",
    "Subscriber",
    "SubscriptionRefused",
    "position_of",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
