"""`AnyioChannelLayer`: the verbs of Channels' channel layer specification."""

from __future__ import annotations

import asyncio
import re
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

from ..core.events import Event
from ..core.exceptions import MissingDriver, PayloadTooLarge, QueueFull

try:
    from channels.consumer import AsyncConsumer
    from channels.exceptions import ChannelFull, MessageTooLarge
    from channels.layers import BaseChannelLayer
except ModuleNotFoundError as error:
    raise MissingDriver(
        "AnyioChannelLayer needs Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from .config import Settings, read_config
from .databases import Watch
from .dispatcher import Courier
from .jobs import Job, acknowledge_when_handled
from .names import Naming, node_of
from .transactions import TransactionCourier, TransactionPublisher

# Channels tells nobody when a consumer ends; but it is a consumer's own __call__ that asks for its name.
_CONSUMER = AsyncConsumer.__call__.__code__
_CHANNEL_NAME = re.compile(r"[a-zA-Z0-9\-_.]+(?:![a-zA-Z0-9\-_.]*)?")
_GROUP_NAME = re.compile(r"[a-zA-Z0-9\-_.]+")


class AnyioChannelLayer(BaseChannelLayer):
    """A channel layer as Channels' specification wants it (https://channels.readthedocs.io/en/stable/channel_layer_spec.html).

    Name it in ``CHANNEL_LAYERS``; its ``CONFIG`` becomes the keyword arguments. It has the ``groups`` and ``flush``
    extensions. All verbs may be called from any thread and event loop; those that end in ``_sync`` also without one.

    `send` and `group_send` return when the broker has accepted the message. They raise `TypeError` for what cannot be
    encoded, ``MessageTooLarge`` above ``max_message_size``, `ListenerClosed` when there was no link to the broker for
    ``publish_timeout`` seconds, and `DeliveryUnknown` when the link broke before the broker answered.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(self, **config: Any) -> None:
        settings = self.read_config(config)
        for note in settings.notes:
            warnings.warn(f"{note.message} {note.hint}", stacklevel=2)
        super().__init__(expiry=settings.expiry, capacity=settings.capacity)  # type: ignore[arg-type]
        self.channel_capacity = list(settings.channel_capacity)  # type: ignore[assignment]
        self.group_expiry = settings.group_expiry
        self._settings = settings
        self._naming = Naming(settings.prefix)
        self._courier = Courier(settings, self._naming)
        self._in_transaction: dict[str | None, TransactionCourier] = {}
        self._watch = None if settings.database is None else Watch(self._courier.close_everywhere)

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> Settings:
        """What CONFIG says, checked. Raises `ConfigError`, or `MissingDriver` naming the extra to install."""
        return read_config(config)

    # ---- messages -------------------------------------------------------------------------------------------------

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send to one channel. Raises ``ChannelFull`` when a normal channel is at its capacity."""
        frame = self._encode(message)
        self.require_valid_channel_name(channel)
        owner = node_of(channel)
        with _REFUSALS:
            if owner is None:
                await self._courier.put(channel, frame)
            else:
                await self._courier.publish(self._naming.inbox(owner), _addressed(channel, frame))

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel. Cancelling it loses nothing, and a broker's outage only delays it."""
        node = self._courier.node()
        if node is not None and channel in node.names:
            message = await node.names.receive(channel)
        else:
            self.require_valid_channel_name(channel)
            message = await self._courier.receive(channel)
        return message  # type: ignore[no-any-return]

    async def new_channel(self, prefix: str = "specific") -> str:
        """A name that only this process can receive on. Costs no round trip once this loop's node is open.

        A consumer's name ends with the consumer; any other name with its last message or membership.
        """
        caller = sys._getframe(1)
        consumer = caller.f_locals["self"] if caller.f_code is _CONSUMER else None
        if consumer is not None and consumer.scope.get("type") == "channel":
            acknowledge_when_handled(consumer)
        node = self._courier.node()
        if node is not None:
            name = node.names.new(prefix, consumer, asyncio.current_task())
        else:
            name = await self._courier.call(lambda node: node.new_channel(prefix, consumer))
        self.require_valid_channel_name(name)
        return name

    async def ack(self, message: dict[str, Any]) -> None:
        """Acknowledge a message that `receive` returned, so that nobody else gets it; returns when the broker knows.

        That is for programs that call `receive` on channels listed under ``acknowledged``. A worker's consumers need
        not do it: what they have handled without an error is acknowledged. Other messages need no acknowledgement,
        and nothing happens. Raises `ListenerClosed` if the link breaks: the message may come again then.
        """
        if isinstance(message, Job):
            await self._courier.call_in(message.loop, message.done)

    # ---- groups ---------------------------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of any process to a group; in effect for every sender when it returns."""
        self._check_names(group, channel)
        await self._courier.call(lambda node: node.group_add(group, channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel of any process from a group; no error if it isn't in it."""
        self._check_names(group, channel)
        await self._courier.call(lambda node: node.group_discard(group, channel))

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send to all channels of a group. A member whose mailbox is full misses it; that is counted and logged."""
        frame = self._encode(message)
        self.require_valid_group_name(group)
        with _REFUSALS:
            await self._courier.publish(self._naming.group(group), frame)

    async def group_history(
        self, group: str, *, since: str | None = None, limit: int | None = None
    ) -> list[Event[dict[str, Any]]]:
        """What was sent to a group after the position ``since``, the oldest first, or else what was last.

        Each event has a ``message`` and a ``position``. Needs a broker that keeps a history, else `NotSupported` is
        raised; `PositionLost` if the history no longer reaches back to ``since``.
        """
        self.require_valid_group_name(group)
        return await self._courier.call(lambda node: node.history(group, since, limit))

    async def group_resume(self, group: str, channel: str, *, since: str | None = None, last: int = 0) -> str | None:
        """Add a channel of this process to a group from the position ``since`` on: what was sent after it comes first.

        Without ``since`` the ``last`` messages come first. Then comes what is live. Each comes once and in order, and
        is a `GroupMessage`, with its position. Where messages are missing later, because the channel read too slowly or
        the broker lost its memory, a message ``{"type": "group.missed", "group": group}`` stands in their place.

        Returns a position to keep until the first message comes; None if it comes at once, out of the past. Raises
        `PositionLost` or `InvalidPosition`, and `NotSupported` if the broker keeps no history; the channel is not in
        the group then. Raises `ValueError` if it is in the group already, or belongs to another process.
        """
        self._check_names(group, channel)
        return await self._courier.call_owner(channel, lambda node: node.resume(group, channel, since, last))

    async def flush(self) -> None:
        """Forget every message and every group, in all processes that share the prefix."""
        await self._courier.call(lambda node: node.flush())

    # ---- from code without an event loop --------------------------------------------------------------------------

    def send_sync(self, channel: str, message: dict[str, Any]) -> None:
        """`send` for synchronous code."""
        self._send_by(self._courier, channel, message)

    def group_send_sync(self, group: str, message: dict[str, Any]) -> None:
        """`group_send` for synchronous code."""
        self._group_send_by(self._courier, group, message)

    def in_transaction(self, using: str | None = None) -> TransactionPublisher:
        """``send`` and ``group_send`` as a part of the database transaction that is open when they are called.

        ``using`` is the alias of DATABASES, by default the layer's own. Only for a layer on PostgreSQL, and only for
        the database that the layer listens in; else `NotSupported` is raised.
        """
        courier = self._in_transaction.get(using)
        if courier is None:
            courier = TransactionCourier(self._courier, self._settings, self._naming, using)
            self._in_transaction[using] = courier
        return TransactionPublisher(partial(self._send_by, courier), partial(self._group_send_by, courier))

    def group_add_sync(self, group: str, channel: str) -> None:
        """`group_add` for synchronous code."""
        self._check_names(group, channel)
        self._courier.call_sync(lambda node: node.group_add(group, channel))

    def group_discard_sync(self, group: str, channel: str) -> None:
        """`group_discard` for synchronous code."""
        self._check_names(group, channel)
        self._courier.call_sync(lambda node: node.group_discard(group, channel))

    # ---- life -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Disconnect this event loop and the background one. Never needed: it happens when a loop or process ends."""
        await self._courier.close()

    def statistics(self) -> dict[str, int]:
        """What this process has open and has lost, summed over its event loops.

        ``nodes`` (connected event loops), ``channels`` (names in use), ``topics`` (broker subscriptions), ``outages``
        (links lost), ``dropped`` (messages for full mailboxes), ``expired`` (messages not read in time),
        ``undecodable`` (frames thrown away).
        """
        nodes = self._courier.nodes
        return {
            "nodes": len(nodes),
            "channels": sum(len(node.names) for node in nodes),
            "topics": sum(node.channel.subscriptions for node in nodes),
            "outages": sum(node.channel.outages for node in nodes),
            "dropped": sum(node.channel.stats.dropped for node in nodes),
            "expired": sum(node.channel.stats.expired for node in nodes),
            "undecodable": sum(node.channel.stats.undecodable for node in nodes),
        }

    # ---- what the ways of sending have in common -------------------------------------------------------------------

    def _send_by(self, courier: Courier | TransactionCourier, channel: str, message: dict[str, Any]) -> None:
        frame = self._encode(message)
        self.require_valid_channel_name(channel)
        owner = node_of(channel)
        with _REFUSALS:
            if owner is None:
                courier.put_sync(channel, frame)
            else:
                courier.publish_sync(self._naming.inbox(owner), _addressed(channel, frame))

    def _group_send_by(self, courier: Courier | TransactionCourier, group: str, message: dict[str, Any]) -> None:
        frame = self._encode(message)
        self.require_valid_group_name(group)
        with _REFUSALS:
            courier.publish_sync(self._naming.group(group), frame)

    # ---- names and messages ---------------------------------------------------------------------------------------

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """As Channels has it, but a trailing newline and digits of other scripts are refused too."""
        if isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH and _CHANNEL_NAME.fullmatch(name):
            return receive is False or super().require_valid_channel_name(name, receive=True)
        raise TypeError(self.invalid_name_error.format("Channel"))

    def require_valid_group_name(self, name: object) -> bool:
        """As Channels has it, but a trailing newline and digits of other scripts are refused too."""
        if isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH and _GROUP_NAME.fullmatch(name):
            return True
        raise TypeError(self.invalid_name_error.format("Group"))

    def _check_names(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)

    def _encode(self, message: dict[str, Any]) -> bytes:
        if not isinstance(message, dict):
            raise TypeError(f"A message must be a dict, not {type(message).__name__}")
        try:
            return self._settings.encode(message)
        except PayloadTooLarge as error:
            raise MessageTooLarge(str(error)) from None


def _addressed(channel: str, frame: bytes) -> bytes:
    return b"%b\n%b" % (channel.encode(), frame)


class _Refusals:
    """Translates what a broker refuses into Channels' exceptions."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, QueueFull):
            raise ChannelFull(str(error)) from error
        if isinstance(error, PayloadTooLarge):
            raise MessageTooLarge(str(error)) from error


_REFUSALS = _Refusals()
