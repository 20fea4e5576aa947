"""A Django Channels layer on an anyio publish/subscribe core with interchangeable brokers.

Importing this package imports no Django and no broker driver; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .event import Event
from .exceptions import (
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

__all__ = [
    "BaseChannelLayer",
    "ChannelLayerError",
    "DecodeError",
    "DeliveryUnknown",
    "Event",
    "ListenerClosed",
    "MissingDriver",
    "NotSupported",
    "PayloadTooLarge",
    "QueueFull",
    "SubscriptionRefused",
]
