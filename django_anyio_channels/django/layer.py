"""`AnyioChannelLayer`: the methods of Channels' channel layer specification."""

from __future__ import annotations

import asyncio
from typing import Any

from ..core.events import Event
from ..core.exceptions import MissingDriver

try:
    import channels  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDriver(
        "AnyioChannelLayer needs Django and Channels: pip install django-anyio-channels[django]"
    ) from error

from .base import REFUSALS, translate
from .consumers.default_handlers import add_handlers
from .consumers.fast_dispatch import inbox_of, speed_up
from .consumers.internals import acknowledging, calling_consumer, is_worker
from .consumers.jobs import Job
from .dispatcher import same_node
from .listening import Listening
from .monitoring.health import HealthMethods
from .monitoring.inspection import InspectionMethods
from .monitoring.statistics import Statistics
from .presence.methods import joining_of
from .sending.sends import Channels, Groups, Results
from .testing import TestingMethods


class AnyioChannelLayer(TestingMethods, Listening, Statistics, HealthMethods, InspectionMethods):
    """A channel layer by Channels' specification (https://channels.readthedocs.io/en/stable/channel_layer_spec.html).

    Name it in ``CHANNEL_LAYERS``; its ``CONFIG`` becomes the keyword arguments. It has the ``groups`` and ``flush``
    extensions. All methods may be called in any thread and event loop; those that end in ``_sync`` also without one.

    `send` and `group_send` return when the broker has accepted the message. They raise `TypeError` for a message that
    cannot be encoded, `ValueError` for one without a valid ``type``, ``MessageTooLarge`` above ``max_message_size``,
    `ListenerClosed` if there was no connection to the broker for ``publish_timeout`` seconds, and `DeliveryUnknown` if
    it broke before the broker answered.
    """

    async def send(self, channel: str, message: dict[str, Any], *, idempotency_key: str | None = None) -> None:
        """Send to one channel. Raises ``ChannelFull`` when a normal channel is at its capacity.

        With an ``idempotency_key`` that the channel has had within five minutes it does nothing; see `group_send`.
        """
        if idempotency_key is not None or self._observers:
            await self._send_to_channel(channel, message, idempotency_key)
            return
        inbox, payload = self.address(channel, message)
        sender = self._own_node or self._dispatcher
        try:
            if inbox is None:
                await sender.put(channel, payload)
            else:
                await sender.publish(inbox, payload)
        except REFUSALS as error:
            raise translate(error) from error

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel. Cancelling loses nothing, and an outage of the broker only delays it.

        Raises `ValueError` for a channel that `new_channel` made in another process.
        """
        node = self._own_node
        if node is not None and channel in node.local_channels:
            message = await node.local_channels.receive(channel)
        else:
            self.require_valid_channel_name(channel)
            message = await self._dispatcher.receive(channel)
        return message  # type: ignore[no-any-return]

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a name that only this process can receive on. Costs no round trip once this loop's node is open.

        The channel of a consumer ends with the consumer; any other channel with its last message or membership. A
        consumer may say in ``channel_prefix`` what its name begins with, for the globs of ``channel_capacity`` and
        ``overflow``.
        """
        task = asyncio.current_task()
        consumer = calling_consumer(task)
        node = self._own_node
        if node is None:
            node = await self._dispatcher.call(same_node)
        if consumer is not None:
            prefix = getattr(consumer, "channel_prefix", prefix)
        name = node.local_channels.new(prefix, consumer, task)
        self.require_valid_channel_name(name)
        if consumer is not None:
            former = inbox_of(consumer)
            if former is not None:
                # A ``__call__`` of its own has made another channel before. Channels' loop receives from the last one.
                node.local_channels.inbox(name, former)
                return name
            self._instrument(consumer)
            if self._is_fast and node is self._own_node and _receives_by_itself(consumer):
                speed_up(consumer, node.local_channels.inbox(name))
            else:
                add_handlers(consumer)
                if is_worker(consumer):
                    consumer.dispatch = acknowledging(consumer.dispatch)  # type: ignore[assignment, method-assign]
        return name

    async def ack(self, message: dict[str, Any]) -> None:
        """Acknowledge a message that `receive` returned; returns when the broker has the acknowledgement.

        It is for programs that call `receive` on channels listed under ``acknowledged``. A worker's consumers need not
        call it: a message is acknowledged when it was handled without an error. Does nothing for other messages. Raises
        `ListenerClosed` if the connection breaks; the message may be delivered again then.
        """
        if isinstance(message, Job):
            await self._dispatcher.call_in(message.loop, message.ack)

    async def group_add(
        self,
        group: str,
        channel: str,
        *,
        member: str | None = None,
        meta: dict[str, Any] | None = None,
        watch: bool = False,
    ) -> None:
        """Add a channel of any process to a group; in effect for every sender when it returns.

        With ``member``, such as ``str(user.pk)``, the channel is one of that member of the group, see `group_members`;
        ``meta`` is what the others may know of it. Adding it again changes them. With ``watch`` the channel is sent
        ``presence.changed`` when members join and leave; a consumer with `PresenceMixin` is anyway, if it has a member.
        """
        self._check_names(group, channel)
        joining = joining_of(self._settings, member, meta, watch)
        await self._dispatcher.call(lambda node: node.group_add(group, channel, joining))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel of any process from a group; no error if it isn't in it."""
        self._check_names(group, channel)
        await self._dispatcher.call(lambda node: node.group_discard(group, channel))

    async def group_send(
        self,
        group: Groups,
        message: dict[str, Any],
        *,
        exclude: Channels = None,
        idempotency_key: str | None = None,
    ) -> Results:
        """Send to all channels of a group. A member whose mailbox is full misses it, which is counted and logged.

        ``group`` may be a list: it takes one round trip, and a member of several gets the message once. Channels in
        ``exclude``, one or a list, do not get it.

        With an ``idempotency_key`` a call is repeated where it would raise `DeliveryUnknown`, which it raises only if
        that fails, too. It returns a `PublishResult`, or a list of them for a list of groups. A second call with the
        key within five minutes sends nothing, and returns what the first one returned. A key belongs to one group.
        Raises `NotSupported` where the broker cannot remember keys (MQTT).
        """
        if exclude or idempotency_key is not None or not isinstance(group, str) or self._observers:
            return await self._send_to_groups(group, message, exclude, idempotency_key)
        topic, payload = self.address_group(group, message)
        sender = self._own_node or self._dispatcher
        try:
            await sender.publish(topic, payload)
        except REFUSALS as error:
            raise translate(error) from error
        return None

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
        return await self._dispatcher.call_owner(
            channel, lambda node: node.resumes.counted(node.resume(group, channel, since, last), since)
        )

    async def flush(self) -> None:
        """Drop all messages and all memberships, in all processes that share the prefix."""
        await self._dispatcher.call(lambda node: node.flush())


_RECEIVE = AnyioChannelLayer.receive


def _receives_by_itself(consumer: Any) -> bool:
    """Return whether no subclass and no wrapper wants to see what a consumer's layer receives."""
    receive = getattr(getattr(consumer, "channel_layer", None), "receive", None)
    return getattr(receive, "__func__", None) is _RECEIVE
