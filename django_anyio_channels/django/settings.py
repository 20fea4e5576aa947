"""What CONFIG becomes once it is read: settings, warnings and errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from django.core.exceptions import ImproperlyConfigured

from ..core.encryption import Encryption
from ..core.events import BoundQueue
from ..core.layer import BaseChannelLayer
from ..core.serializers import Serializer
from .names import BrokerNames

LayerFactory = Callable[[], BaseChannelLayer]

LARGEST_COUNT = 2**31 - 1
"""The largest capacity that every broker takes."""


class ConfigError(ImproperlyConfigured):
    """A setting that cannot be used. `hint` says what to write instead, `code` which system check reports it."""

    def __init__(self, message: str, *, hint: str, code: str) -> None:
        message = message.replace("?.", "?")  # the error of a layer may end with "Did you mean ...?"
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint
        self.code = code


def invalid_value(key: str, value: object, wanted: str) -> ConfigError:
    """Return the error for a value of the wrong type or range."""
    return ConfigError(f"CONFIG[{key!r}] is {value!r}.", hint=f"It must be {wanted}.", code="E005")


class ConfigWarning(NamedTuple):
    """A key of CONFIG that has no effect, and what to write instead."""

    message: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an `AnyioChannelLayer`, with CONFIG's defaults. Times are in seconds."""

    serializer: Serializer
    encryption: Encryption | None = None
    layer_factories: tuple[LayerFactory, ...] = ()
    """One for each broker."""

    prefix: str = "asgi"
    expiry: float = 60.0
    group_expiry: float = 86400.0
    capacity: int = 100
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...] = ()
    acknowledged: tuple[re.Pattern[str], ...] = ()
    publish_timeout: float = 10.0
    max_message_size: int = 4 * 1024 * 1024
    outage_message: str | None = None
    warnings: tuple[ConfigWarning, ...] = ()
    database: str | None = None
    """The alias of DATABASES whose server is the broker."""

    @cached_property
    def names(self) -> BrokerNames:
        """The topics and queues of ``prefix``."""
        return BrokerNames(self.prefix)

    def make_layers(self) -> list[BaseChannelLayer]:
        """Make a new driver for each broker; every event loop has its own."""
        return [make_layer() for make_layer in self.layer_factories]

    def capacity_of(self, channel: str) -> int:
        """Return the capacity of the first pattern that matches, or the general one."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def queue_of(self, channel: str) -> BoundQueue:
        """Return the queue of a normal channel, its capacity and expiry."""
        return BoundQueue(self.names.queue(channel), self.capacity_of(channel), self.expiry)

    def is_acknowledged(self, channel: str) -> bool:
        """Return whether messages of this normal channel are delivered again until they are acknowledged."""
        return any(pattern.match(channel) for pattern in self.acknowledged)
