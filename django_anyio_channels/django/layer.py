"""`AnyioChannelLayer`: the methods of Channels' channel layer specification."""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar, cast

from ..core.events import Event
from ..core.exceptions import MissingDriver, PayloadTooLarge, QueueFull
from ..core.serializers import encode_limited

try:
    from asgiref.sync import markcoroutinefunction
    from channels.exceptions import ChannelFull, MessageTooLarge
    from channels.layers import BaseChannelLayer
except ModuleNotFoundError as error:
    raise MissingDriver(
        "AnyioChannelLayer needs Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from .config import read_config, refuse_misplaced_keys
from .consumers import acknowledge_when_handled, called_by_channels_loop, calling_consumer
from .dispatcher import Dispatcher, same_node
from .fast_dispatch import is_supported, speed_up
from .jobs import Job
from .messages import seal
from .names import CHANNEL_NAME, GROUP_NAME, channel_of, node_of
from .node import Node
from .settings import Settings
from .transactions import TransactionalLayer, TransactionDispatcher

_AnyDispatcher = Dispatcher | TransactionDispatcher


class AnyioChannelLayer(BaseChannelLayer):
    """A channel layer by Channels' specification (https://channels.readthedocs.io/en/stable/channel_layer_spec.html).

    Name it in ``CHANNEL_LAYERS``; its ``CONFIG`` becomes the keyword arguments. It has the ``groups`` and ``flush``
    extensions. All methods may be called in any thread and event loop; those that end in ``_sync`` also without one.

    `send` and `group_send` return when the broker has accepted the message. They raise `TypeError` for a message that
    cannot be encoded, `ValueError` for one without a valid ``type``, ``MessageTooLarge`` above ``max_message_size``,
    `ListenerClosed` if there was no connection to the broker for ``publish_timeout`` seconds, and `DeliveryUnknown` if
    it broke before the broker answered.
    """

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
        self.channel_capacity = list(settings.channel_capacity)  # type: ignore[assignment]
        self.group_expiry = settings.group_expiry
        self._settings = settings
        self._names = settings.names
        self._is_fast = settings.fast_dispatch and is_supported()
        self._dispatcher = Dispatcher(settings)
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

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send to one channel. Raises ``ChannelFull`` when a normal channel is at its capacity."""
        inbox, payload = self._address(channel, message)
        sender = self._own_node or self._dispatcher
        try:
            if inbox is None:
                await sender.put(channel, payload)
            else:
                await sender.publish(inbox, payload)
        except _REFUSALS as error:
            raise _translate(error) from error

    @markcoroutinefunction
    def receive(self, channel: str) -> Coroutine[Any, Any, dict[str, Any]]:
        """Wait for the next message of a channel. Cancelling loses nothing, and an outage of the broker only delays it.

        Raises `ValueError` for a channel that `new_channel` made in another process.
        """
        if self._is_fast and called_by_channels_loop():
            node = self._own_node
            if node is not None and node.local_channels.is_of_running_consumer(channel):
                return cast(Coroutine[Any, Any, dict[str, Any]], node.local_channels.next_message(channel))
        return self._receive(channel)

    async def _receive(self, channel: str) -> dict[str, Any]:
        node = self._own_node
        if node is not None and channel in node.local_channels:
            message = await node.local_channels.receive(channel)
        else:
            self.require_valid_channel_name(channel)
            message = await self._dispatcher.receive(channel)
        return message  # type: ignore[no-any-return]

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a name that only this process can receive on. Costs no round trip once this loop's node is open.

        The channel of a consumer ends with the consumer; any other channel with its last message or membership.
        """
        task = asyncio.current_task()
        consumer = calling_consumer(task)
        node = self._own_node
        if node is None:
            node = await self._dispatcher.call(same_node)
        name = node.local_channels.new(prefix, consumer, task)
        self.require_valid_channel_name(name)
        if consumer is not None:
            if self._is_fast:
                speed_up(consumer, partial(node.local_channels.take_after, name))
            acknowledge_when_handled(consumer)
        return name

    async def ack(self, message: dict[str, Any]) -> None:
        """Acknowledge a message that `receive` returned; returns when the broker has the acknowledgement.

        It is for programs that call `receive` on channels listed under ``acknowledged``. A worker's consumers need not
        call it: a message is acknowledged when it was handled without an error. Does nothing for other messages. Raises
        `ListenerClosed` if the connection breaks; the message may be delivered again then.
        """
        if isinstance(message, Job):
            await self._dispatcher.call_in(message.loop, message.ack)

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of any process to a group; in effect for every sender when it returns."""
        self._check_names(group, channel)
        await self._dispatcher.call(lambda node: node.group_add(group, channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel of any process from a group; no error if it isn't in it."""
        self._check_names(group, channel)
        await self._dispatcher.call(lambda node: node.group_discard(group, channel))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send to all channels of a group. A member whose mailbox is full misses it, which is counted and logged."""
        topic, payload = self._address_group(group, message)
        sender = self._own_node or self._dispatcher
        try:
            await sender.publish(topic, payload)
        except _REFUSALS as error:
            raise _translate(error) from error

    async def group_history(
        self, group: str, *, since: str | None = None, limit: int | None = None
    ) -> list[Event[dict[str, Any]]]:
        """Return what was sent to a group after the position ``since``, oldest first, or else the last messages.

        ``limit`` is the greatest number of events. Each has a ``message`` and a ``position``. Raises `PositionLost` if
        the history no longer reaches back to ``since``, and `NotSupported` if the broker keeps no history.
        """
        self.require_valid_group_name(group)
        return await self._dispatcher.call(lambda node: node.history(group, since, limit))

    async def group_resume(self, group: str, channel: str, *, since: str | None = None, last: int = 0) -> str | None:
        """Add a channel of this process to a group from the position ``since`` on.

        What was sent after ``since`` comes first, or else the ``last`` messages; then live messages. Each comes once
        and in order, and is a `GroupMessage`, with its position. Where messages are missing later, because the channel
        read too slowly or the broker lost its memory, ``{"type": "group.missed", "group": group}`` takes their place.

        Returns a position to keep until the first message comes; None if one comes at once, from the history. Raises
        `PositionLost` or `InvalidPosition`, and `NotSupported` if the broker keeps no history; the channel is not in
        the group then. Raises `ValueError` if it is in the group already, or belongs to another process.
        """
        self._check_names(group, channel)
        return await self._dispatcher.call_owner(channel, lambda node: node.resume(group, channel, since, last))

    async def flush(self) -> None:
        """Drop all messages and all memberships, in all processes that share the prefix."""
        await self._dispatcher.call(lambda node: node.flush())

    def send_sync(self, channel: str, message: dict[str, Any]) -> None:
        """`send` for synchronous code."""
        self._send_by(self._dispatcher, channel, message)

    def group_send_sync(self, group: str, message: dict[str, Any]) -> None:
        """`group_send` for synchronous code."""
        self._group_send_by(self._dispatcher, group, message)

    def in_transaction(self, using: str | None = None) -> TransactionalLayer:
        """Return a layer whose ``send`` and ``group_send`` are a part of the open database transaction.

        ``using`` is the alias of DATABASES, by default the layer's own. Raises `NotSupported` unless the layer is on
        PostgreSQL, and listens in that database.
        """
        if using not in self._in_transaction:
            dispatcher = TransactionDispatcher(self._dispatcher, self._settings, using)
            self._in_transaction[using] = TransactionalLayer(
                partial(self._send_by, dispatcher), partial(self._group_send_by, dispatcher)
            )
        return self._in_transaction[using]

    def group_add_sync(self, group: str, channel: str) -> None:
        """`group_add` for synchronous code."""
        self._check_names(group, channel)
        self._dispatcher.call_sync(lambda node: node.group_add(group, channel))

    def group_discard_sync(self, group: str, channel: str) -> None:
        """`group_discard` for synchronous code."""
        self._check_names(group, channel)
        self._dispatcher.call_sync(lambda node: node.group_discard(group, channel))

    async def close(self) -> None:
        """Disconnect this event loop and the background one. Not needed: that happens when a loop or process ends."""
        await self._dispatcher.close()

    def statistics(self) -> dict[str, int]:
        """Return what this process has open and has lost, summed over its event loops.

        ``nodes`` (connected event loops), ``channels`` (in use), ``topics`` (subscribed), ``outages`` (lost
        connections), ``dropped`` (for full mailboxes), ``expired`` (not read in time), ``undecodable`` (dropped).
        """
        nodes = self._dispatcher.nodes
        return {
            "nodes": len(nodes),
            "channels": sum(len(node.local_channels) for node in nodes),
            "topics": sum(node.channel.subscriptions for node in nodes),
            "outages": sum(node.channel.outages for node in nodes),
            "dropped": sum(node.channel.stats.dropped for node in nodes),
            "expired": sum(node.channel.stats.expired for node in nodes),
            "undecodable": sum(node.channel.stats.undecodable for node in nodes),
        }

    @property
    def _own_node(self) -> Node | None:
        return self._node_of_loop.get(asyncio.get_running_loop())

    def _send_by(self, dispatcher: _AnyDispatcher, channel: str, message: dict[str, Any]) -> None:
        inbox, payload = self._address(channel, message)
        try:
            if inbox is None:
                dispatcher.put_sync(channel, payload)
            else:
                dispatcher.publish_sync(inbox, payload)
        except _REFUSALS as error:
            raise _translate(error) from error

    def _group_send_by(self, dispatcher: _AnyDispatcher, group: str, message: dict[str, Any]) -> None:
        topic, payload = self._address_group(group, message)
        try:
            dispatcher.publish_sync(topic, payload)
        except _REFUSALS as error:
            raise _translate(error) from error

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

    def _address(self, channel: str, message: dict[str, Any]) -> tuple[str | None, bytes]:
        """Return the inbox of a channel's node with a sealed payload; for a normal channel, None with the payload."""
        payload = _encode(message, self._settings)
        self.require_valid_channel_name(channel)
        owner = node_of(channel)
        return (None, payload) if owner is None else (self._names.inbox(owner), seal(channel, payload))

    def _address_group(self, group: str, message: dict[str, Any]) -> tuple[str, bytes]:
        payload = _encode(message, self._settings)
        self.require_valid_group_name(group)
        return self._names.groups + group, payload


def _encode(message: dict[str, Any], settings: Settings) -> bytes:
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
        raise MessageTooLarge(str(error)) from error


def _invalid_name(layer: AnyioChannelLayer, kind: str, name: object) -> TypeError:
    shown = f"{name[: layer.MAX_NAME_LENGTH]!r}" if isinstance(name, str) else type(name).__name__
    return TypeError(f"{layer.invalid_name_error.format(kind).removesuffix('.')}, not {shown}")


_REFUSALS = (QueueFull, PayloadTooLarge)


def _translate(error: QueueFull | PayloadTooLarge) -> Exception:
    """Return Channels' exception for what a broker refuses."""
    if isinstance(error, PayloadTooLarge):
        return MessageTooLarge(str(error))
    return ChannelFull(
        f"Channel {channel_of(error.queue)!r} is full (capacity {error.capacity}). Run more workers, "
        f"or raise 'capacity' or 'channel_capacity' in CONFIG"
    )
