"""What CONFIG becomes once it is read: settings, warnings and errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import LazyObject, Promise

from ..core.encryption import Encryption
from ..core.events import BoundQueue
from ..core.exceptions import InvalidOption
from ..core.layer import BaseChannelLayer
from ..core.options import Option, check_option
from ..core.serializers import Serializer
from ..core.stats import MAILBOX_BYTES
from ..hub.subscriber import Overflow
from .names import BrokerNames, channel_of


class ConfigError(ImproperlyConfigured):
    """A setting that cannot be used. `hint` says what to write instead, `code` which system check reports it."""

    def __init__(self, message: str, *, hint: str, code: str) -> None:
        self.message: str = _sentence(message)
        self.hint: str = _sentence(hint)
        self.code = code
        super().__init__(f"{self.message} {self.hint}")


def _sentence(text: str) -> str:
    # The error of a layer, which may be the end of it, has no full stop, or ends with "Did you mean ...?".
    text = text.rstrip()
    return text if text.endswith(("?", ".")) else f"{text}."


def check_key(key: str, value: object, option: Option) -> None:
    """Raise `ConfigError` unless a key of CONFIG may have the value."""
    try:
        check_option(f"CONFIG[{key!r}]", value, option)
    except InvalidOption as error:
        raise ConfigError(error.problem, hint=error.cure, code="E005") from None


def without_lazy_strings(value: Any) -> Any:
    """Return what stands under CONFIG with the present text of each lazy string."""
    if isinstance(value, Promise) or (isinstance(value, LazyObject) and isinstance(value, str)):
        return str(value)
    if isinstance(value, Mapping):
        return {without_lazy_strings(key): without_lazy_strings(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(without_lazy_strings, value))
    return value


class LayerFactory:
    """Makes layers of one class. Its repr shows no arguments: they may hold a password."""

    def __init__(self, layer_type: type[BaseChannelLayer], arguments: Callable[[], Mapping[str, Any]]) -> None:
        """``arguments`` is called for each layer."""
        self._layer_type = layer_type
        self._arguments = arguments

    def __call__(self) -> BaseChannelLayer:
        return self._layer_type(**self._arguments())

    def __repr__(self) -> str:
        return f"<LayerFactory of {self._layer_type.__name__}>"


class ConfigWarning(NamedTuple):
    """A key of CONFIG that has no effect, and what to write instead."""

    message: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an `AnyioChannelLayer`, with CONFIG's defaults. Times are in seconds."""

    serializer: Serializer
    json_default: Callable[[Any], Any] | None = None
    """What `json.dumps` calls for other objects, by CONFIG's ``encoder``."""
    encryption: Encryption | None = None
    layer_factories: tuple[LayerFactory, ...] = ()
    """One for each broker."""

    prefix: str = "asgi"
    expiry: float = 60.0
    group_expiry: float = 86400.0
    capacity: int = 100
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...] = ()
    overflow: tuple[tuple[re.Pattern[str], Overflow | None], ...] = ()
    acknowledged: tuple[re.Pattern[str], ...] = ()
    publish_timeout: float = 10.0
    max_message_size: int = 4 * 1024 * 1024
    mailbox_bytes: int = MAILBOX_BYTES
    outage_message: str | None = None
    presence_grace: float = 5.0
    """How long a member stays in a group after its last channel has left."""
    drain_seconds: float = 20.0
    """Over how long `graceful` closes the WebSockets of a process that ends."""
    fast_dispatch: bool = True
    """Whether consumers are given what waits in one go, see `fast_dispatch`."""
    close_on: tuple[str, ...] = ()
    """Which events close the WebSockets of a user, see `close_on`."""
    telemetry: tuple[str, ...] = ()
    """Who measures the layer: names of `telemetry.install.NAMES`."""
    warnings: tuple[ConfigWarning, ...] = ()
    database: str | None = None
    """The alias of DATABASES whose server is the broker."""

    @cached_property
    def names(self) -> BrokerNames:
        """The topics and queues of ``prefix``."""
        return BrokerNames(self.prefix)

    def make_layers(self) -> list[BaseChannelLayer]:
        """Make a new driver for each broker; every event loop has its own."""
        layers = [make_layer() for make_layer in self.layer_factories]
        if self.acknowledged:
            for layer in layers:
                layer.set_acknowledged(lambda queue: self.is_acknowledged(channel_of(queue)))
        return layers

    def capacity_of(self, channel: str) -> int:
        """Return the capacity of the first pattern that matches, or the general one."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def overflow_of(self, channel: str) -> Overflow | None:
        """Return what the first pattern that matches says of a full mailbox; None to drop newer messages."""
        return next((overflow for pattern, overflow in self.overflow if pattern.match(channel)), None)

    def queue_of(self, channel: str) -> BoundQueue:
        """Return the queue of a normal channel, its capacity and expiry."""
        return BoundQueue(self.names.queue(channel), self.capacity_of(channel), self.expiry)

    def is_acknowledged(self, channel: str) -> bool:
        """Return whether messages of this normal channel are delivered again until they are acknowledged."""
        return any(pattern.match(channel) for pattern in self.acknowledged)
