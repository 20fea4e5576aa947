"""A Django Channels layer on an anyio publish/subscribe core with interchangeable brokers.

Importing this package imports no Django and no broker driver; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .core.events import Event, Gap, PublishResult
from .core.exceptions import (
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
from .core.layer import BaseChannelLayer

if TYPE_CHECKING:
    from .brokers.memory.broker import InMemoryBroker
    from .brokers.memory.layer import InMemoryChannelLayer
    from .brokers.mqtt.layer import MQTTChannelLayer
    from .brokers.postgres.layer import PostgreSQLChannelLayer
    from .brokers.redis.layer import RedisPubSubChannelLayer
    from .brokers.redis.streams.layer import RedisStreamsChannelLayer
    from .django.layer import AnyioChannelLayer
    from .django.messages import GroupMessage, position_of
    from .django.resume import AsyncResumingMixin, ResumingMixin, Resumption
    from .hub.channel import Channel
    from .hub.session import Backoff
    from .hub.subscriber import Subscriber

_LAZY = {
    "AnyioChannelLayer": "django.layer",
    "Backoff": "hub.session",
    "Channel": "hub.channel",
    "GroupMessage": "django.messages",
    "InMemoryBroker": "brokers.memory.broker",
    "InMemoryChannelLayer": "brokers.memory.layer",
    "PostgreSQLChannelLayer": "brokers.postgres.layer",
    "RedisPubSubChannelLayer": "brokers.redis.layer",
    "RedisStreamsChannelLayer": "brokers.redis.streams.layer",
    "MQTTChannelLayer": "brokers.mqtt.layer",
    "Subscriber": "hub.subscriber",
    "AsyncResumingMixin": "django.resume",
    "ResumingMixin": "django.resume",
    "Resumption": "django.resume",
    "position_of": "django.messages",
}

__all__ = [
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
    "PublishResult",
    "QueueFull",
    "RedisPubSubChannelLayer",
    "RedisStreamsChannelLayer",
    "ResumingMixin",
    "Resumption",
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
