"""A Django Channels layer on an anyio publish/subscribe core with interchangeable brokers.

Importing this package imports no Django and no broker driver; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .event import Event
from .exceptions import (
    ChannelClosed,
    ChannelLayerError,
    DecodeError,
    DeliveryUnknown,
    ListenerClosed,
    MissingDriver,
    NotSupported,
    PayloadTooLarge,
    QueueFull,
    SubscriptionRefused,
)
from .layers.base import BaseChannelLayer

if TYPE_CHECKING:
    from .adapter import AnyioChannelLayer
    from .channel import Channel
    from .layers.memory import InMemoryBroker, InMemoryChannelLayer
    from .layers.postgres import PostgreSQLChannelLayer
    from .layers.redis import RedisPubSubChannelLayer
    from .layers.sharded import ShardedChannelLayer
    from .link import Backoff
    from .subscriber import Subscriber

_LAZY = {
    "AnyioChannelLayer": "adapter",
    "Backoff": "link",
    "Channel": "channel",
    "InMemoryBroker": "layers.memory",
    "InMemoryChannelLayer": "layers.memory",
    "PostgreSQLChannelLayer": "layers.postgres",
    "RedisPubSubChannelLayer": "layers.redis",
    "ShardedChannelLayer": "layers.sharded",
    "Subscriber": "subscriber",
}

__all__ = [
    "AnyioChannelLayer",
    "Backoff",
    "BaseChannelLayer",
    "Channel",
    "ChannelClosed",
    "ChannelLayerError",
    "DecodeError",
    "DeliveryUnknown",
    "Event",
    "InMemoryBroker",
    "InMemoryChannelLayer",
    "ListenerClosed",
    "MissingDriver",
    "NotSupported",
    "PayloadTooLarge",
    "PostgreSQLChannelLayer",
    "QueueFull",
    "RedisPubSubChannelLayer",
    "ShardedChannelLayer",
    "Subscriber",
    "SubscriptionRefused",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
