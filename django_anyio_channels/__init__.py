"""A Django Channels layer on an anyio publish/subscribe core with interchangeable brokers.

Importing this package imports no Django and no broker driver; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .brokers.memory.broker import InMemoryBroker as InMemoryBroker
    from .brokers.memory.layer import InMemoryChannelLayer as InMemoryChannelLayer
    from .brokers.mqtt.layer import MQTTChannelLayer as MQTTChannelLayer
    from .brokers.postgres.layer import PostgreSQLChannelLayer as PostgreSQLChannelLayer
    from .brokers.redis.layer import RedisPubSubChannelLayer as RedisPubSubChannelLayer
    from .brokers.redis.streams.layer import RedisStreamsChannelLayer as RedisStreamsChannelLayer
    from .core.events import Event as Event
    from .core.events import Gap as Gap
    from .core.events import PublishResult as PublishResult
    from .core.exceptions import ChannelClosed as ChannelClosed
    from .core.exceptions import ChannelLayerError as ChannelLayerError
    from .core.exceptions import DecodeError as DecodeError
    from .core.exceptions import DeliveryUnknown as DeliveryUnknown
    from .core.exceptions import InvalidOption as InvalidOption
    from .core.exceptions import InvalidPosition as InvalidPosition
    from .core.exceptions import ListenerClosed as ListenerClosed
    from .core.exceptions import MissingDriver as MissingDriver
    from .core.exceptions import NotSupported as NotSupported
    from .core.exceptions import PayloadTooLarge as PayloadTooLarge
    from .core.exceptions import PositionLost as PositionLost
    from .core.exceptions import PublishRefused as PublishRefused
    from .core.exceptions import QueueFull as QueueFull
    from .core.exceptions import SubscriberFull as SubscriberFull
    from .core.exceptions import SubscriptionRefused as SubscriptionRefused
    from .core.layer import BaseChannelLayer as BaseChannelLayer
    from .django.browser.consumers import ResumableConsumer as ResumableConsumer
    from .django.browser.consumers import SyncResumableConsumer as SyncResumableConsumer
    from .django.browser.event_stream import EventStreamResponse as EventStreamResponse
    from .django.layer import AnyioChannelLayer as AnyioChannelLayer
    from .django.messages.group_message import GroupMessage as GroupMessage
    from .django.messages.group_message import position_of as position_of
    from .django.migration_operations import CreateChannelTables as CreateChannelTables
    from .django.monitoring.health_check import ChannelLayerHealthCheck as ChannelLayerHealthCheck
    from .django.presence.consumers import PresenceMixin as PresenceMixin
    from .django.presence.results import GroupCount as GroupCount
    from .django.presence.results import Member as Member
    from .django.process.graceful import graceful as graceful
    from .django.registry import get_channel_layer as get_channel_layer
    from .django.resume import AsyncResumingMixin as AsyncResumingMixin
    from .django.resume import ResumingMixin as ResumingMixin
    from .django.resume import Resumption as Resumption
    from .django.sending.middleware import ChannelNameMiddleware as ChannelNameMiddleware
    from .django.sending.middleware import channel_token as channel_token
    from .django.sending.users import UserMixin as UserMixin
    from .django.sending.users import user_groups as user_groups
    from .django.telemetry.prometheus import PrometheusCollector as PrometheusCollector
    from .django.telemetry.tracing import take_trace_context as take_trace_context
    from .hub.channel import Channel as Channel
    from .hub.session import Backoff as Backoff
    from .hub.subscriber import Subscriber as Subscriber

_NAMES = {
    "brokers.memory.broker": ["InMemoryBroker"],
    "brokers.memory.layer": ["InMemoryChannelLayer"],
    "brokers.mqtt.layer": ["MQTTChannelLayer"],
    "brokers.postgres.layer": ["PostgreSQLChannelLayer"],
    "brokers.redis.layer": ["RedisPubSubChannelLayer"],
    "brokers.redis.streams.layer": ["RedisStreamsChannelLayer"],
    "core.events": ["Event", "Gap", "PublishResult"],
    "core.exceptions": [
        *("ChannelClosed", "ChannelLayerError", "DecodeError", "DeliveryUnknown", "InvalidOption", "InvalidPosition"),
        *("ListenerClosed", "MissingDriver", "NotSupported", "PayloadTooLarge", "PositionLost", "PublishRefused"),
        *("QueueFull", "SubscriberFull", "SubscriptionRefused"),
    ],
    "core.layer": ["BaseChannelLayer"],
    "django.browser.consumers": ["ResumableConsumer", "SyncResumableConsumer"],
    "django.browser.event_stream": ["EventStreamResponse"],
    "django.process.graceful": ["graceful"],
    "django.monitoring.health_check": ["ChannelLayerHealthCheck"],
    "django.layer": ["AnyioChannelLayer"],
    "django.messages.group_message": ["GroupMessage", "position_of"],
    "django.migration_operations": ["CreateChannelTables"],
    "django.sending.middleware": ["ChannelNameMiddleware", "channel_token"],
    "django.presence.consumers": ["PresenceMixin"],
    "django.presence.results": ["GroupCount", "Member"],
    "django.registry": ["get_channel_layer"],
    "django.resume": ["AsyncResumingMixin", "ResumingMixin", "Resumption"],
    "django.sending.users": ["UserMixin", "user_groups"],
    "django.telemetry.prometheus": ["PrometheusCollector"],
    "django.telemetry.tracing": ["take_trace_context"],
    "hub.channel": ["Channel"],
    "hub.session": ["Backoff"],
    "hub.subscriber": ["Subscriber"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
