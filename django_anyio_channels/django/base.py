"""What all methods of the channel layer share: its settings, its dispatcher, and how names and messages are checked."""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from ..core.exceptions import PayloadTooLarge, QueueFull
from ..core.serializers import encode_limited
from .configuration.config import read_config, refuse_misplaced_keys
from .configuration.factory import broker_kind
from .consumers.fast_dispatch import is_supported
from .dispatcher import Dispatcher
from .messages.inbox import seal
from .names import CHANNEL_NAME, GROUP_NAME, channel_of, node_of
from .nodes.node import Node
from .sending.observers import Observer
from .settings import Settings
from .telemetry.context import MessageWithContext
from .telemetry.install import install
from .transactions import TransactionalLayer


class LayerBase(BaseChannelLayer):
    """The part of `AnyioChannelLayer` that its methods are built on."""

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(self, **config: Any) -> None:
        if not config:
            refuse_misplaced_keys(type(self))
        settings = self._read_settings(config)
        for warning in settings.warnings:
            warnings.warn(f"{warning.message} {warning.hint}", stacklevel=2)
        super().__init__(expiry=settings.expiry, capacity=settings.capacity)  # type: ignore[arg-type]
        self.channel_capacity: Any = list(settings.channel_capacity)
        self.group_expiry: float = settings.group_expiry
        self.drain_seconds: float = settings.drain_seconds
        self._settings = settings
        self._names = settings.names
        self._is_fast = settings.fast_dispatch and is_supported()
        self.telemetry: tuple[str, ...] = settings.telemetry
        """Who measures this layer: the names that CONFIG has."""
        installed = install(self)
        self._instrument = installed.instrument
        self._observers: tuple[Observer, ...] = installed.observers
        """Each is called with all that is sent."""
        self._dispatcher = Dispatcher(settings, installed.new_recorder)
        self._node_of_loop = self._dispatcher.node_of_loop
        self._in_transaction: dict[str | None, TransactionalLayer] = {}
        # Channels drops its layers when CHANNEL_LAYERS changes, as in `override_settings`; event loops keep the nodes.
        weakref.finalize(self, self._dispatcher.close_soon).atexit = False

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> Settings:
        """Read and check CONFIG. Raises `ConfigError`, or `MissingDriver`, which names the extra to install."""
        return read_config(config)

    def _read_settings(self, config: Mapping[str, Any]) -> Settings:
        return self.read_config(config)

    @cached_property
    def broker(self) -> str:
        """The kind of the broker: the URL scheme, or "custom"."""
        return broker_kind(self._settings.make_layers()[0])

    @cached_property
    def is_after(self) -> Callable[[str, str], bool]:
        """Whether one position is after another one in the same group's history."""
        return self._settings.make_layers()[0].is_after

    async def close(self) -> None:
        """Disconnect this event loop and the background one. Not needed: that happens when a loop or process ends."""
        await self._dispatcher.close()

    @property
    def _own_node(self) -> Node | None:
        return self._node_of_loop.get(asyncio.get_running_loop())

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Do what Channels does, but refuse a trailing newline and digits of other scripts, too."""
        if isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH and CHANNEL_NAME.fullmatch(name):
            return receive is False or super().require_valid_channel_name(name, receive=True)
        raise _invalid_name(self, "Channel", name)

    def require_valid_group_name(self, name: object) -> bool:
        if isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH and GROUP_NAME.fullmatch(name):
            return True
        raise _invalid_name(self, "Group", name)

    def _check_names(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)

    def address(self, channel: str, message: dict[str, Any]) -> tuple[str | None, bytes]:
        """Return the inbox of a channel's node with a sealed payload; for a normal channel, None with the payload."""
        payload = encode(message, self._settings)
        self.require_valid_channel_name(channel)
        owner = node_of(channel)
        return (None, payload) if owner is None else (self._names.inbox(owner), seal(channel, payload))

    def address_group(self, group: str, message: dict[str, Any]) -> tuple[str, bytes]:
        payload = encode(message, self._settings)
        self.require_valid_group_name(group)
        return self._names.groups + group, payload


def encode(message: dict[str, Any], settings: Settings) -> bytes:
    """Encode a message for consumers.

    Raises `TypeError` for what cannot be encoded, `ValueError` for a message that would end the consumers that receive
    it, and ``MessageTooLarge`` above ``max_message_size``.
    """
    if not isinstance(message, dict):
        raise TypeError(f"A message must be a dict, not {type(message).__name__}")
    kind = message.get("type")
    if not isinstance(kind, str) or not kind or kind[0] in "._":
        found = "is missing" if kind is None else f"is {kind!r}" if isinstance(kind, str) else f"is {type(kind)}"
        raise ValueError(
            f"message['type'] {found}. It must be the name of a consumer's method, such as 'chat.message', and not "
            f"begin with a dot or an underscore: a message without one ends the consumer that receives it"
        )
    try:
        return encode_limited(settings.max_message_size, settings.serializer, message)
    except PayloadTooLarge as error:
        if isinstance(message, MessageWithContext):
            return encode(message.message, settings)
        raise MessageTooLarge(str(error)) from error


def _invalid_name(layer: LayerBase, kind: str, name: object) -> TypeError:
    shown = f"{name[: layer.MAX_NAME_LENGTH]!r}" if isinstance(name, str) else type(name).__name__
    return TypeError(f"{layer.invalid_name_error.format(kind).removesuffix('.')}, not {shown}")


REFUSALS = (QueueFull, PayloadTooLarge)


def translate(error: QueueFull | PayloadTooLarge) -> Exception:
    """Return Channels' exception for what a broker refuses."""
    if isinstance(error, PayloadTooLarge):
        return MessageTooLarge(str(error))
    return ChannelFull(
        f"Channel {channel_of(error.queue)!r} is full (capacity {error.capacity}). Run more workers, "
        f"or raise 'capacity' or 'channel_capacity' in CONFIG"
    )
