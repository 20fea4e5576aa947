"""A node: one event loop that reads from the broker, with its channels and its inbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ...core.events import Event
from ...core.exceptions import DecodeError
from ...core.options import LARGEST_COUNT
from ...core.telemetry import Recorder
from ...hub.channel import Channel
from ...hub.measured import MeasuredChannel
from ...hub.replay import ReplaySink, check_history_range
from ...hub.subscriber import Timestamped
from ..consumers.jobs import Job, Jobs
from ..listeners import Listeners
from ..messages.group_message import GroupMessage, position_of
from ..messages.inbox import unseal
from ..names import is_channel_of, new_node_id, node_of
from ..presence.records import Joining
from ..settings import Settings
from .control import Control
from .echo import Echo
from .local_channels import LocalChannels
from .outages import Outages
from .recipients import Recipients
from .reports import Reporter
from .resume_counts import ResumeCounts

logger = logging.getLogger("django_anyio_channels")


class Node:
    """The verbs of one event loop, for names that the layer has checked and payloads that it has encoded."""

    def __init__(
        self, channel: Channel, settings: Settings, recipients: Recipients, recorder: Recorder | None = None
    ) -> None:
        self.id = new_node_id()
        self.channel = channel
        self._recipients = recipients
        self.recorder = recorder
        self.publish = channel.publish_payload if recorder is None else recorder.timed(channel.publish_payload)
        self._put = channel.queues.put if recorder is None else recorder.timed(channel.queues.put)
        self.is_closed = False
        self.inbox = settings.names.inbox(self.id)
        self._names = settings.names
        self._settings = settings
        self.local_channels = LocalChannels(self.id, channel, settings)
        self._reporter = Reporter(self, settings)
        self.control = Control(self.id, channel, settings, self.local_channels, self._start_soon, self._reporter)
        self.echo = Echo(self.id, channel, settings)
        self.presence = self.local_channels.presence
        self.listeners = Listeners()
        self.resumes = ResumeCounts()
        self._jobs = Jobs(channel, settings.names)
        self._background_tasks: set[asyncio.Task[None]] = set()

    async def put(self, channel: str, payload: bytes) -> None:
        """Put into the queue of a normal channel. Raises `QueueFull`."""
        queue, capacity, expiry = self._settings.queue_of(channel)
        await self._put(queue, payload, capacity=capacity, expiry=expiry)

    async def receive(self, channel: str) -> Any:
        """Wait for the next message of a channel of this node, of a prefix of this node, or of a normal channel."""
        if node_of(channel) == self.id:
            local = self.local_channels
            return await (local.receive_prefix if channel.endswith("!") else local.receive)(channel)
        if self._settings.is_acknowledged(channel):
            return await self._jobs.receive(channel)
        while True:
            payload = await self.channel.queues.take(self._names.queue(channel))
            try:
                return self.channel.serializer.decode(payload)
            except DecodeError as error:
                self.channel.stats.count_undecodable(channel, error)

    def put_back(self, channel: str, message: Any) -> None:
        """Return a message that was received for a caller that has gone."""
        payload = self.channel.encode(message)
        if node_of(channel) == self.id:
            group = self._names.group(message.group) if isinstance(message, GroupMessage) else channel
            self.local_channels.put_back(channel, Event(group, payload, position=position_of(message)))
        else:
            self._start_soon(self._requeue(channel, payload, message))

    async def _requeue(self, channel: str, payload: bytes, message: Any) -> None:
        queue, _, expiry = self._settings.queue_of(channel)
        # The message had its place in the queue, which may be full again.
        await self.channel.queues.put(queue, payload, capacity=LARGEST_COUNT, expiry=expiry)
        if isinstance(message, Job):
            await message.ack()

    async def group_add(self, group: str, channel: str, joining: Joining | None = None) -> None:
        """Add a channel of any node, or a normal channel, to a group; ``joining`` is for presence."""
        topic, owner = self._names.group(group), node_of(channel)
        if owner is not None and owner != self.id:
            await self.control.request(self._names.inbox(owner), "group_add", group, channel, joining)
        elif owner is not None and joining is not None:
            await self.presence.group_add(group, channel, joining)
        elif owner is not None:
            await self.local_channels.group_add(topic, channel)
        elif joining is not None:
            raise ValueError(
                f"{channel!r} is a normal channel, which cannot be a member's; use a channel of new_channel()"
            )
        else:
            queue, capacity, expiry = self._settings.queue_of(channel)
            lifetime = self._settings.group_expiry
            await self.channel.queues.bind(topic, queue, capacity=capacity, expiry=expiry, lifetime=lifetime)

    async def group_discard(self, group: str, channel: str) -> None:
        """Undo `group_add`."""
        topic, owner = self._names.group(group), node_of(channel)
        if owner == self.id:
            self.local_channels.group_discard(topic, channel)
        elif owner is not None:
            await self.control.request(self._names.inbox(owner), "group_discard", group, channel)
        else:
            await self.channel.queues.unbind(topic, self._names.queue(channel))

    async def resume(self, group: str, channel: str, since: str | None, last: int) -> str | None:
        """Add a channel of this node to a group from a position on; see `AnyioChannelLayer.group_resume`."""
        check_history_range(group, since, last, "last")
        topic = self._names.group(group)
        if self.local_channels.sink(topic, channel) is not None:
            cure = "Call group_discard() before group_resume()"
            raise ValueError(f"Channel {channel!r} is already in group {group!r}. {cure}")
        gap_event = Event(channel, self.channel.encode({"type": "group.missed", "group": group}))
        is_after = self.channel.layer.is_after
        sink = await self.local_channels.resume(
            topic, channel, lambda mailbox: ReplaySink(mailbox, is_after, gap_event)
        )
        try:
            position = await self.channel.position(topic) if since is None else since
            limit = last if since is None else None
            history = await self.channel.history_payloads(topic, since=since, limit=limit)
            events = self._recipients.of_history(history, channel)
        except BaseException:
            self.local_channels.group_discard(topic, channel)
            raise
        sink.start(position, events)
        return None if since is None and events else position

    async def history(self, group: str, since: str | None, limit: int | None) -> list[Event[Any]]:
        """Return what was sent to a group; see `Channel.history`."""
        payloads = await self.channel.history_payloads(self._names.group(group), since=since, limit=limit)
        events = self.channel.decode_all(self._recipients.of_history(payloads))
        for event in events:
            event.group = group
        return events

    async def flush(self) -> None:
        """Empty the queues and all nodes of the prefix."""
        await self.channel.queues.purge(self._names.prefix)
        await self.control.request(self._names.nodes, "flush")
        # Messages that were on their way to a group may have reached its queues meanwhile.
        await self.channel.queues.purge(self._names.prefix)

    async def flush_own_channels(self) -> None:
        """Empty this node, when it has carried out all commands that it got before."""
        await self.control.request(self.inbox, "flush")

    def read_inbox(self, entry: Timestamped) -> None:
        """Deliver what was published to this node, or to all nodes."""
        arrived, event = entry
        channel, payload = unseal(event.message)
        try:
            if not event.message:
                return  # a probe, see `BaseChannelLayer.count_subscribers`
            if not channel:
                self.control.receive(payload)
            elif is_channel_of(self.id, channel):
                self.local_channels.deliver(channel, arrived, payload)
            else:
                raise DecodeError("it is addressed to no channel of this node")
        except DecodeError as error:
            self.channel.stats.count_undecodable(event.group, error)

    def report_missed(self, topic: str | None, seconds: float) -> None:
        """Send ``outage_message`` to the members of a group whose history does not reach back; None for all groups.

        For the inbox these are the members of all groups: messages to single channels may concern any of them.
        Channels that resumed the group get their message in any case.
        """
        self.presence.mark_missed(topic)
        if topic is not None:
            self.local_channels.mark_gap(topic)
        kind, payload = self._settings.outage_message, None
        if kind is not None:
            payload = self.channel.encode({"type": kind, "seconds": seconds})
            self.local_channels.deliver_to_members(payload, None if topic == self.inbox else topic)
        self.listeners.report_missed(topic, payload)

    def _start_soon(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background_tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._background_tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Could not reply to another node, or requeue a message", exc_info=task.exception())

    def close(self) -> None:
        """Cancel what runs in the background."""
        self.is_closed = True
        self.local_channels.close()
        self._reporter.close()
        for task in self._background_tasks:
            task.cancel()


class _InboxSink:
    """The sink that hands a node what is published to it."""

    def __init__(self, node: Node) -> None:
        self.put = node.read_inbox

    def close(self) -> None:
        """No task waits here."""


@asynccontextmanager
async def open_node(settings: Settings, outages: Outages, recorder: Recorder | None) -> AsyncGenerator[Node, None]:
    """Open a node for the running event loop, from connecting to disconnecting. With a recorder it measures."""

    def report_missed(topic: str | None, seconds: float) -> None:
        node.report_missed(topic, seconds)

    new_channel: Callable[..., Channel] = Channel if recorder is None else partial(MeasuredChannel, recorder=recorder)
    layers, names = settings.make_layers(), settings.names
    for layer in layers:
        layer.set_scope(names.prefix)
        # Commands to all nodes are about the present; a node that got them later would do the wrong thing.
        layer.disable_history(names.nodes)
    recipients = Recipients(
        names,
        lambda topic, name: node.local_channels.sink(topic, name),
        lambda topic, error: channel.stats.count_undecodable(topic, error),
        settings.serializer.decode,
        lambda mailbox: node.local_channels.inboxes.get(mailbox),
    )
    channel = new_channel(
        layers,
        serializer=settings.serializer,
        encryption=settings.encryption,
        capacity=settings.capacity,
        expiry=settings.expiry,
        publish_timeout=settings.publish_timeout,
        max_message_size=settings.max_message_size,
        mailbox_bytes=settings.mailbox_bytes,
        on_gap=partial(report_missed, None),
        on_missed=report_missed,
        marked=recipients,
    )
    async with channel:
        node = Node(channel, settings, recipients, recorder)
        try:
            with outages.of(channel):
                sink = _InboxSink(node)
                await channel.add_sink(node.inbox, sink)
                await channel.add_sink(names.nodes, sink)
                yield node
        finally:
            await node.presence.close()
            node.close()
