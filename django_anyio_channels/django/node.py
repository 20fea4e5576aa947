"""A node: one event loop that reads from the broker, its channel names, its inbox, its dealings with others."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from ..core.events import Event, GroupMessage, position_of
from ..core.exceptions import ChannelLayerError, DecodeError, ListenerClosed
from ..hub.channel import Channel
from ..hub.replay import ReplaySink
from ..hub.subscriber import Subscriber, Timestamped
from .config import LARGEST_COUNT, Settings
from .jobs import Job, Jobs
from .local_channels import Names
from .names import Naming, node_of

logger = logging.getLogger("django_anyio_channels")

_LOCAL_NAME = re.compile(rb"[a-zA-Z0-9\-_.]+![a-zA-Z0-9\-_.]*")


class Node:
    """The verbs of one event loop, on names that the adapter has checked and frames that it has encoded."""

    def __init__(self, channel: Channel, settings: Settings, naming: Naming) -> None:
        self.id = secrets.token_hex(8)
        self.channel = channel
        self.naming = naming
        self._settings = settings
        self.names = Names(
            self.id,
            channel,
            self._mailbox,
            self._placed,
            expiry=settings.expiry,
            group_expiry=settings.group_expiry,
        )
        self.jobs = Jobs(channel, naming)
        self._asked: dict[str, _Question] = {}
        self._orders: set[asyncio.Task[None]] = set()

    def _mailbox(self, name: str) -> Subscriber:
        return self.channel.mailbox(name, capacity=self._settings.capacity_of(name))

    def _placed(self, event: Event[bytes], message: Any) -> GroupMessage:
        """The message of an event with a position, as consumers get it."""
        return GroupMessage(message, event.group.removeprefix(self.naming.groups), str(event.position))

    # ---- messages -------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, frame: bytes) -> None:
        await self.channel.publish_payload(topic, frame)

    async def put(self, channel: str, frame: bytes) -> None:
        """Put into the queue of a normal channel. Raises `QueueFull`."""
        await self._put(channel, frame, self._settings.capacity_of(channel))

    async def _put(self, channel: str, frame: bytes, capacity: int) -> None:
        await self.channel.queues.put(
            self.naming.queue(channel), frame, capacity=capacity, expiry=self._settings.expiry
        )

    async def receive(self, channel: str) -> Any:
        """The next message of a name of this node, of a prefix of this node, or of a normal channel."""
        if node_of(channel) == self.id:
            return await (self.names.receive_prefix if channel.endswith("!") else self.names.receive)(channel)
        if self._settings.is_acknowledged(channel):
            return await self.jobs.receive(channel)
        return await self._receive_from_queue(channel)

    async def _receive_from_queue(self, channel: str) -> Any:
        while True:
            frame = await self.channel.queues.take(self.naming.queue(channel))
            try:
                return self.channel.serializer.decode(frame)
            except DecodeError as error:
                self.channel.stats.count_undecodable(channel, error)

    def put_back(self, channel: str, message: Any) -> None:
        """Return a message that `receive` gave to a caller who had gone."""
        frame = self.channel.encode(message)
        if node_of(channel) == self.id:
            group = self.naming.group(message.group) if isinstance(message, GroupMessage) else channel
            self.names.put_back(channel, Event(group, frame, position=position_of(message)))
        else:
            self._start(self._put_again(channel, frame, message))

    async def _put_again(self, channel: str, frame: bytes, message: Any) -> None:
        # It had its place in the queue, which may be full again.
        await self._put(channel, frame, LARGEST_COUNT)
        if isinstance(message, Job):
            await message.done()

    async def new_channel(self, prefix: str, consumer: object | None) -> str:
        return self.names.new(prefix, consumer)

    # ---- groups ---------------------------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        owner = node_of(channel)
        if owner == self.id:
            await self.names.join(self.naming.group(group), channel)
        elif owner is not None:
            await self._ask(self.naming.inbox(owner), {"do": "join", "group": group, "channel": channel})
        else:
            await self.channel.queues.bind(
                self.naming.group(group),
                self.naming.queue(channel),
                capacity=self._settings.capacity_of(channel),
                expiry=self._settings.expiry,
                lifetime=self._settings.group_expiry,
            )

    async def group_discard(self, group: str, channel: str) -> None:
        owner = node_of(channel)
        if owner == self.id:
            self.names.leave(self.naming.group(group), channel)
        elif owner is not None:
            await self._ask(self.naming.inbox(owner), {"do": "leave", "group": group, "channel": channel})
        else:
            await self.channel.queues.unbind(self.naming.group(group), self.naming.queue(channel))

    async def resume(self, group: str, channel: str, since: str | None, last: int) -> str | None:
        """Add a channel of this node to a group from a position on; see `AnyioChannelLayer.group_resume`."""
        topic = self.naming.group(group)
        if self.names.is_in(topic, channel):
            raise ValueError(f"{channel} is in group {group} already; call group_discard before it begins in the past")
        notice = Event(channel, self.channel.encode({"type": "group.missed", "group": group}))
        is_after = self.channel.layer.is_after
        sink = await self.names.resume(topic, channel, lambda mailbox: ReplaySink(mailbox, is_after, notice))
        try:
            position = await self.channel.position(topic) if since is None else since
            limit = last if since is None else None
            events = await self.channel.history_payloads(topic, since=since, limit=limit)
        except BaseException:
            self.names.leave(topic, channel)
            raise
        sink.start(position, events)
        return None if since is None and events else position

    async def history(self, group: str, since: str | None, limit: int | None) -> list[Event[Any]]:
        """What was sent to a group; see `Channel.history`."""
        events = await self.channel.history(self.naming.group(group), since=since, limit=limit)
        for event in events:
            event.group = group
        return events

    async def flush(self) -> None:
        """Empty the queues and every node that shares the prefix."""
        await self.channel.queues.purge(self.naming.prefix)
        await self._ask(self.naming.nodes, {"do": "flush"})
        await self.channel.queues.purge(self.naming.prefix)

    # ---- other nodes ----------------------------------------------------------------------------------------------

    async def _ask(self, topic: str, order: dict[str, Any]) -> None:
        """Have every node that listens to ``topic`` do something, and wait until all have done it.

        A node that has gone has nothing left to change, so it is not waited for where the broker can tell.
        """
        number = secrets.token_hex(8)
        question = self._asked[number] = _Question()
        order = {**order, "number": number, "answer_to": self.id}
        try:
            listening = await self.channel.count_subscribers(topic)
            reached = (await self.channel.publish_payload(topic, b"\n" + self.channel.encode(order))).receivers
            if reached is None:
                reached = 1 if listening is None else listening
            await question.answered_by(reached, self._settings.publish_timeout)
        finally:
            del self._asked[number]

    def read_inbox(self, entry: Timestamped) -> None:
        """Take a frame from this node's inbox: ``name``, a line feed, and the message; or no name, and an order."""
        arrived, event = entry
        name, _, frame = event.message.partition(b"\n")
        if not name:
            # An empty message only asked the broker whether anybody listens.
            if event.message:
                self._read_order(frame)
        elif self._owns(name):
            self.names.deliver(name.decode(), arrived, frame)
        else:
            self.channel.stats.count_undecodable(event.group, DecodeError("it is addressed to nobody here"))

    def _owns(self, name: bytes) -> bool:
        return _LOCAL_NAME.fullmatch(name) is not None and node_of(name.decode()) == self.id

    def _read_order(self, frame: bytes) -> None:
        try:
            order = self.channel.serializer.decode(frame)
            if order.get("do") is None:
                self._asked[order["number"]].answer(order["failed"])
            else:
                self._check(order)
                self._start(self._obey(order["do"], order))
        except DecodeError as error:
            self.channel.stats.count_undecodable(self.naming.inbox(self.id), error)
        except (AttributeError, KeyError, TypeError) as error:
            unknown = DecodeError(f"it is no order that this version knows ({error!r})")
            self.channel.stats.count_undecodable(self.naming.inbox(self.id), unknown)

    def _check(self, order: dict[str, Any]) -> None:
        """Raise unless a node may have given this order: whoever writes to the broker can forge one."""
        about_a_member = order["do"] in ("join", "leave")
        for key in ("do", "number", "answer_to", *(("group", "channel") if about_a_member else ())):
            if not isinstance(order[key], str):
                raise TypeError(f"its {key!r} is no text")
        if about_a_member and not self._owns(order["channel"].encode()):
            raise KeyError("its 'channel' is not of this node")

    async def _obey(self, what: str, order: dict[str, Any]) -> None:
        failed = None
        try:
            if what == "join":
                await self.names.join(self.naming.group(order["group"]), order["channel"])
            elif what == "leave":
                self.names.leave(self.naming.group(order["group"]), order["channel"])
            elif what == "flush":
                self.names.clear()
            else:
                failed = f"node {self.id} does not know how to {what}"
        except ChannelLayerError as error:
            failed = str(error)
        answer = self.channel.encode({"number": order["number"], "failed": failed})
        await self.channel.publish_payload(self.naming.inbox(order["answer_to"]), b"\n" + answer)

    def _start(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._orders.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._orders.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Could not do what another node asked for", exc_info=task.exception())

    # ---- life -----------------------------------------------------------------------------------------------------

    def report_gap(self, seconds: float) -> None:
        """Tell the members of groups of an outage, if the settings ask for it."""
        if self._settings.outage_message is not None:
            message = {"type": self._settings.outage_message, "seconds": seconds}
            self.names.deliver_to_members(self.channel.encode(message))

    def report_missed(self, topic: str, seconds: float) -> None:
        """Tell the members of a group that its history does not reach back, if the settings ask for it.

        What was sent to single channels may concern any of them, so of that all members of groups are told. Channels
        that resumed the group are told in any case.
        """
        self.names.miss(topic)
        if self._settings.outage_message is not None:
            message = {"type": self._settings.outage_message, "seconds": seconds}
            self.names.deliver_to_members(
                self.channel.encode(message), None if topic == self.naming.inbox(self.id) else topic
            )

    def close(self) -> None:
        self.names.close()
        for task in self._orders:
            task.cancel()


class _Question:
    """Something that was asked of other nodes, and who has answered."""

    def __init__(self) -> None:
        self._answers = 0
        self._failed: str | None = None
        self._wanted: int | None = None
        self._complete = asyncio.Event()

    def answer(self, failed: str | None) -> None:
        self._answers += 1
        self._failed = self._failed or failed
        if self._wanted is not None and self._answers >= self._wanted:
            self._complete.set()

    async def answered_by(self, nodes: int, seconds: float) -> None:
        self._wanted = nodes
        if self._answers < nodes:
            try:
                await asyncio.wait_for(self._complete.wait(), seconds)
            except asyncio.TimeoutError:
                raise ListenerClosed(
                    f"{self._answers} of {nodes} nodes answered within {seconds:g} s; "
                    f"the others are gone, or something blocks their event loops"
                ) from None
        if self._failed:
            raise ListenerClosed(self._failed)


class _Inbox:
    """The sink that hands a node what is sent to it."""

    def __init__(self, node: Node) -> None:
        self.put = node.read_inbox

    def close(self) -> None:
        """Nobody waits here."""


@asynccontextmanager
async def open_node(settings: Settings, naming: Naming) -> AsyncGenerator[Node, None]:
    """A node for the running event loop, from connecting to disconnecting."""
    layers = settings.make_layers()
    for layer in layers:
        layer.set_scope(naming.prefix)
        # What one node says to all about the present is no longer true for a node that hears it later.
        layer.disable_history(naming.nodes)
    channel = Channel(
        layers,
        serializer=settings.serializer,
        capacity=settings.capacity,
        expiry=settings.expiry,
        publish_timeout=settings.publish_timeout,
        max_message_size=settings.max_message_size,
        on_gap=lambda seconds: node.report_gap(seconds),
        on_missed=lambda topic, seconds: node.report_missed(topic, seconds),
    )
    async with channel:
        node = Node(channel, settings, naming)
        try:
            inbox = _Inbox(node)
            await channel.add_sink(naming.inbox(node.id), inbox)
            await channel.add_sink(naming.nodes, inbox)
            yield node
        finally:
            node.close()
