"""Commands between nodes, and the replies to them.

A command is published to the inbox of one node, or to all nodes. Every node that gets it replies to the inbox of the
node that sent it. The payload is MessagePack: a `Command` or a `Reply` as a map. Where messages are encrypted, a
command is carried out once, and only as long as its sender waits.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import msgspec

from ...core.encryption import CLOCK_SKEW
from ...core.exceptions import ChannelLayerError, DecodeError, ListenerClosed
from ...hub.channel import Channel
from ..messages.inbox import CONTROL, seal
from ..names import is_channel_of, is_group, is_node_id
from ..presence.records import Joining
from ..process.event_loops import open_in_idle_loops
from ..settings import Settings
from .local_channels import LocalChannels
from .reports import Report, Reporter

_CHANNEL_COMMANDS = ("group_add", "group_discard")
_LARGEST = 128 * 1024
"""Bytes of a control message; a report of statistics with all that it may have takes half of it."""
_MOST_REPLIES = 10_000
_REMEMBERED_REQUESTS = 100
_LAST_REPLY_SECONDS = 0.5
"""For which another reply is waited for where the broker does not say how many nodes there are."""


class Command(msgspec.Struct, tag_field="kind", tag="command"):
    """A request to change something at another node, or to report."""

    command: str
    """``group_add``, ``group_discard``, ``flush`` or ``statistics``; other versions may know others."""

    request_id: str
    reply_to: str
    """The id of the node that waits for the reply."""

    group: str = ""
    channel: str = ""
    joining: Joining | None = None
    details: bool = False
    """Of ``statistics``: whether groups and queues are wanted, too."""


class Reply(msgspec.Struct, tag_field="kind", tag="reply"):
    """The answer of one node."""

    request_id: str
    error: str | None
    report: Report | None = None
    """What ``statistics`` asks for."""


class Reports(NamedTuple):
    """The reports of all nodes that replied, and how long each took."""

    by_node: dict[str, tuple[Report, float]]
    """The id of each node -> its report, and the seconds until that came."""
    nodes: int | None
    """How many nodes there are; None where the broker does not say."""
    errors: list[str]
    """Replies without a report, from nodes that run another version."""
    asked_by: str
    """The id of the node that asked; its report is there, too."""
    asked_at: float
    """When it asked, in the time of `time.time`."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Command | Reply).decode


class Control:
    """One node's commands to other nodes, and theirs to it."""

    def __init__(
        self,
        node_id: str,
        channel: Channel,
        settings: Settings,
        local_channels: LocalChannels,
        start_soon: Callable[[Coroutine[Any, Any, None]], None],
        reporter: Reporter,
    ) -> None:
        self._node_id = node_id
        self._channel = channel
        self._names = settings.names
        self._local_channels = local_channels
        self._start_soon = start_soon
        self._reporter = reporter
        self._timeout = settings.publish_timeout
        self._replay_seconds = 0.0 if settings.encryption is None else self._timeout + 2 * CLOCK_SKEW
        self._handled: dict[str, float] = {}
        """The ids of the commands that a copy may come of, and until when."""
        self._pending: dict[str, asyncio.Queue[Reply]] = {}
        """The replies to each request that waits."""
        self._ended: deque[str] = deque(maxlen=_REMEMBERED_REQUESTS)
        """The requests that wait no more, to which a reply may still come."""

    @asynccontextmanager
    async def _expect_replies(self) -> AsyncGenerator[tuple[str, asyncio.Queue[Reply]], None]:
        request_id = secrets.token_hex(8)
        replies = self._pending[request_id] = asyncio.Queue(_MOST_REPLIES)
        try:
            yield request_id, replies
        finally:
            del self._pending[request_id]
            self._ended.append(request_id)

    async def _send(self, topic: str, command: Command) -> tuple[int | None, int]:
        """Send a command to every node that subscribes to ``topic``.

        Return how many nodes got it, None where the broker does not say, and how many of these do not run.
        """
        idle = await self._count_idle(topic, command.command)
        subscribers = await self._channel.count_subscribers(topic)
        published = await self._publish(topic, command)
        # A broker may count a monitor among those that received a message.
        receivers = min((number for number in (subscribers, published) if number is not None), default=None)
        return receivers, idle

    async def request(
        self, topic: str, command: str, group: str = "", channel: str = "", joining: Joining | None = None
    ) -> None:
        """Send a command to every node that subscribes to ``topic``, and wait until all have carried it out.

        A node that has gone has nothing left to change, so it is not waited for where the broker can tell. Nor is one
        of this process whose event loop does not run: it gets the command before all later messages, when it does.
        Raises `ListenerClosed` if a node does not reply in time, or replies with an error.
        """
        errors: list[str | None] = []
        async with self._expect_replies() as (request_id, replies):
            made = Command(command, request_id, self._node_id, group, channel, joining)
            receivers, idle = await self._send(topic, made)
            expected = (1 if receivers is None else receivers) - idle
            try:
                async with asyncio.timeout(self._timeout):
                    while len(errors) < expected:
                        errors.append((await replies.get()).error)
            except TimeoutError:
                raise ListenerClosed(
                    f"{len(errors)} of {expected} nodes replied within {self._timeout:g} s; "
                    f"the others have ended, or something blocks their event loops"
                ) from None
        for error in filter(None, errors):
            raise ListenerClosed(error)

    async def statistics(self, *, details: bool, timeout: float) -> Reports:
        """Ask every node for its report, this one too, and return those that come within ``timeout`` seconds.

        A broker that does not say how many nodes there are is given until none has replied for half a second.
        """
        found: dict[str, tuple[Report, float]] = {}
        errors: list[str] = []
        async with self._expect_replies() as (request_id, replies):
            command = Command("statistics", request_id, self._node_id, details=details)
            asked_at, began = time.time(), perf_counter()
            receivers, idle = await self._send(self._names.nodes, command)
            count = None if receivers is None else receivers - idle
            loop = asyncio.get_running_loop()
            latest = ends = loop.time() + timeout
            wanted = _MOST_REPLIES if count is None else count
            while len(found) + len(errors) < wanted:
                getting = loop.create_task(replies.get())
                await asyncio.wait([getting], timeout=max(0.0, ends - loop.time()))
                if not getting.done():
                    getting.cancel()
                    break
                reply = getting.result()
                if reply.report is None:
                    errors.append(reply.error or "it has no report")
                else:
                    found.setdefault(reply.report.node, (reply.report, perf_counter() - began))
                if count is None:
                    ends = min(latest, loop.time() + _LAST_REPLY_SECONDS)
        return Reports(found, count, errors, self._node_id, asked_at)

    async def _count_idle(self, topic: str, command: str) -> int:
        """Return how many nodes of this process subscribe to ``topic`` in event loops that do not run."""
        idle = 0
        for loop, node in open_in_idle_loops():
            inbox = self._names.inbox(node.id)
            if node.inbox != inbox or topic not in (self._names.nodes, inbox):
                continue
            if command == "group_add" and not loop.is_closed():
                raise ListenerClosed("The event loop that made the name of the channel does not run; nothing was done")
            # That layer may have another broker; an inbox of its name is nowhere else.
            counted = await self._channel.count_subscribers(inbox)
            receivers = (await self._channel.publish_payload(inbox, b"")).receivers if counted is None else counted
            idle += (topic == inbox) if receivers is None else receivers
        return idle

    def receive(self, payload: bytes) -> None:
        """Handle a control message that was published to this node or to all. Raises `DecodeError` for a forged one."""
        if len(payload) > _LARGEST:
            raise DecodeError(f"it is a control message of more than {_LARGEST} bytes")
        self._channel.stats.unbuffered += 1
        try:
            message = _decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise DecodeError(f"it is not a control message of this version ({error})") from error
        if isinstance(message, Command):
            if message.command in _CHANNEL_COMMANDS and not is_channel_of(self._node_id, message.channel):
                raise DecodeError(f"its channel {message.channel!r} is not a channel of this node")
            if message.command in _CHANNEL_COMMANDS and not is_group(message.group):
                raise DecodeError("it is about no group")
            if not is_node_id(message.reply_to):
                raise DecodeError("it asks for a reply to no node")
            self._refuse_replay(message.request_id)
            if message.command == "statistics":
                self._reporter.charge(message.details)
            # At once, so that it comes before the messages that were sent after it.
            if message.command == "flush":
                self._local_channels.flush()
            elif message.command == "group_discard":
                self._local_channels.group_discard(self._names.group(message.group), message.channel)
            self._start_soon(self._handle(message))
        elif message.request_id in self._pending and not self._pending[message.request_id].full():
            self._pending[message.request_id].put_nowait(message)
        elif message.request_id not in self._ended:
            raise DecodeError("it is a reply to no request of this node")

    def _refuse_replay(self, request_id: str) -> None:
        now = monotonic()
        while self._handled and next(iter(self._handled.values())) <= now:
            del self._handled[next(iter(self._handled))]
        if request_id in self._handled:
            raise DecodeError("it is a copy of a command that was handled")
        self._handled[request_id] = now + self._replay_seconds

    async def _handle(self, command: Command) -> None:
        error = report = None
        try:
            if command.command == "group_add" and command.joining is not None:
                await self._local_channels.presence.group_add(command.group, command.channel, command.joining)
            elif command.command == "group_add":
                await self._local_channels.group_add(self._names.group(command.group), command.channel)
            elif command.command == "statistics":
                report = await self._reporter.make(command.details)
            elif command.command not in ("group_discard", "flush"):
                error = f"Node {self._node_id} does not support the command {command.command!r}"
        except ChannelLayerError as failure:
            error = str(failure)
        await self._publish(self._names.inbox(command.reply_to), Reply(command.request_id, error, report))

    async def _publish(self, topic: str, message: Command | Reply) -> int | None:
        sealed = seal(CONTROL, _encode(message))
        result = await self._channel.publish_payload(topic, sealed, lifetime=self._timeout)
        return result.receivers
