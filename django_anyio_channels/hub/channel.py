"""The hub's face: publish, subscribe, and queues over one layer that is kept alive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Literal

import anyio

from ..core.events import Event
from ..core.exceptions import ChannelClosed, ChannelLayerError, DecodeError, ListenerClosed
from ..core.layer import Acknowledging, BaseChannelLayer, BindsElsewhere, require_acknowledging, require_binds_elsewhere
from ..core.notifier import NewWaiter, waiter_factory
from ..core.serializers import MessagePackSerializer, Serializer, encode_within
from ..core.stats import Losses
from .consumer_group import Consumer
from .line import Line
from .replay import Rejoining
from .subscriber import Subscriber
from .subscriptions import Sink
from .supervisor import Backoff


class Channel:
    """One layer, open from ``async with`` to its end, for any number of tasks of one event loop.

    It connects in the background and again after every loss of the link, restores the subscriptions, and hands each
    event to every subscriber that wants it. Calls that need the broker wait up to ``publish_timeout`` seconds for a
    link and then raise `ListenerClosed`.

    ``serializer`` turns messages into bytes (default: MessagePack). ``capacity`` and ``expiry`` (seconds, None for no
    limit) are a subscriber's defaults. ``max_message_size`` limits an encoded message, in bytes. ``backoff`` says when
    to try to connect again. ``on_gap`` is called with the length in seconds of an outage when the link is back, after
    the subscriptions have been restored: what others published meanwhile was missed. A layer that keeps a history
    misses nothing; where the history does not reach back, ``on_missed`` is called with the group (or the pattern) and
    the length of the outage in seconds, after all that came before and before all that comes after. It is also called
    for a group that a cluster has moved to another server, if something may have been missed meanwhile, and for one
    that the broker refused to subscribe to again after an outage, once it does.

    A layer that is spread over several brokers has a link to each. While one is down, only the groups and queues that
    are there wait for it.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        *,
        serializer: Serializer | None = None,
        capacity: int = 100,
        expiry: float | None = 60.0,
        publish_timeout: float = 10.0,
        max_message_size: int = 4 * 1024 * 1024,
        backoff: Backoff | None = None,
        on_gap: Callable[[float], None] | None = None,
        on_missed: Callable[[str, float], None] | None = None,
    ) -> None:
        self.layer = layer
        self.serializer = serializer or MessagePackSerializer()
        self._decode = self.serializer.decode  # one for all subscribers: each look-up would make another
        self.losses = Losses()
        """What subscribers could not keep, summed up."""
        self._capacity = capacity
        self._expiry = expiry
        self._publish_timeout = publish_timeout
        self._max_message_size = max_message_size
        self._backoff = backoff or Backoff()
        self._on_gap = on_gap or _no_report
        self._on_missed = on_missed or _no_report
        self._running: AsyncExitStack | None = None
        self._lines: dict[BaseChannelLayer, Line] | None = None
        self._new_waiter: NewWaiter

    async def __aenter__(self) -> Channel:
        if self._running is not None:
            raise RuntimeError("This Channel is open already; make another one with a layer of its own")
        self._new_waiter = waiter_factory()
        parts = self.layer.parts
        lines = {
            part: Line(part, self._on_gap, self._on_missed, self._publish_timeout, self._backoff) for part in parts
        }
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            for part, line in lines.items():
                if len(parts) > 1 and isinstance(part, BindsElsewhere):
                    part.put_bound_with(self._put_bound)
                if len(parts) > 1 and isinstance(part, Acknowledging):
                    part.bury_with(self.publish_frame)
                stack.callback(line.close)
                tasks.start_soon(line.run)
            self._running = stack.pop_all()
        self._lines = lines
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        running, self._running, self._lines = self._running, None, None
        if running is not None:
            await running.aclose()

    # ---- messages -----------------------------------------------------------------------------------------------

    def encode(self, message: Any) -> bytes:
        """The frame of a message. Raises `TypeError` for what cannot be encoded, `PayloadTooLarge` above the limit."""
        return encode_within(self._max_message_size, self.serializer, message)

    async def publish(self, group: str, message: Any) -> int | None:
        """Publish a message to every subscriber of ``group``; returns when the broker has accepted it.

        Returns how many nodes the broker handed it to, if the broker says so. Raises `TypeError` and `PayloadTooLarge`
        as `encode` does, `ListenerClosed` if there was no link for ``publish_timeout`` seconds (nothing was sent), and
        `DeliveryUnknown` if the link broke before the broker answered.
        """
        return await self.publish_frame(group, self.encode(message))

    async def publish_frame(self, group: str, frame: bytes) -> int | None:
        """`publish` for what is encoded already."""
        line = self._line(group)
        life = line.link.life or await line.link.up()
        try:
            return await line.layer.publish(group, frame)
        except ListenerClosed as error:
            raise line.lost(life, f"to {group}", error) from error

    async def listeners(self, group: str) -> int | None:
        """`BaseChannelLayer.listeners`."""
        line = self._line(group)
        return await line.insist(lambda: line.layer.listeners(group))

    async def history(self, group: str, *, since: str | None = None, limit: int | None = None) -> list[Event[Any]]:
        """What was published to ``group`` after the position ``since``, the oldest first, or else what was last.

        ``limit`` is the greatest number of events. A position is that of an event, or of what `publish` returned.
        Raises `PositionLost` if the history no longer reaches back to it, `InvalidPosition` for what is no position,
        and `NotSupported` if the broker keeps no history.
        """
        events: list[Event[Any]] = []
        for event in await self.history_frames(group, since=since, limit=limit):
            try:
                message = self.serializer.decode(event.message)
            except DecodeError as error:
                self.losses.frame_undecodable(group, error)
            else:
                events.append(Event(group, message, None, None, event.position))
        return events

    async def history_frames(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        """`history` without decoding."""
        line = self._line(group)
        return await line.insist(lambda: line.layer.history(group, since=since, limit=limit))

    async def position(self, group: str) -> str:
        """Where the history of ``group`` ends just now. Raises `NotSupported` if the broker keeps none."""
        line = self._line(group)
        return await line.insist(lambda: line.layer.position(group))

    @asynccontextmanager
    async def subscribe(
        self,
        *groups: str,
        pattern: str | None = None,
        since: str | None = None,
        capacity: int | None = None,
        expiry: float | None = None,
        ack: Literal["auto", "manual"] = "auto",
        consumer_group: str | None = None,
    ) -> AsyncGenerator[Subscriber, None]:
        """Subscribe to groups, to all groups that match a pattern, or both.

        Entering returns when the subscription is in effect: what anyone publishes afterwards is seen. Leaving in any
        way leaves the Channel usable. Raises `NotSupported` for a pattern that the broker cannot do, and
        `ListenerClosed` if there was no link for ``publish_timeout`` seconds. An event that matches several of the
        names comes once for each. ``capacity`` and ``expiry`` (`math.inf` for no limit) replace the Channel's own.

        Where the broker wants events acknowledged, so that it hands them out again after a crash, that is done when a
        reader takes one; with ``ack="manual"`` only when the reader calls `Event.ack`.

        With ``since`` a subscription to one group begins at this position: everything after it comes first, then
        what is live, each once and in order; the capacity grows by the former. It raises what `history` raises.

        The subscriptions of a ``consumer_group`` to one group, in all processes, share its events: each goes to one
        of them, when a reader waits for it. What the reader does not acknowledge in time goes to another one, and
        after too many times to the group ``jobs.workers.dead`` (of the group "jobs" and the consumer group "workers").
        A consumer group begins with the first subscription, and outlives the last one: what is published meanwhile is
        for those who come.
        """
        if ack not in ("auto", "manual"):
            raise ValueError(f"ack is {ack!r}; it must be 'auto' or 'manual'")
        names = [*((group, False) for group in groups), *([] if pattern is None else [(pattern, True)])]
        if not names:
            raise TypeError("subscribe() needs at least one group or a pattern")
        if since is not None and (len(groups) != 1 or pattern is not None):
            raise TypeError("subscribe(since=...) takes one group: a position belongs to the history of one")
        consumer_group = consumer_group or self._consumer_group_of(names)
        if consumer_group is not None and (len(groups) != 1 or pattern is not None or since is not None):
            raise TypeError(
                f"The consumers of {consumer_group!r} share one group; subscribe to each group by itself, without "
                f"pattern and since, or without a consumer group through another Channel"
            )
        subscriber = self.mailbox(
            ", ".join(name for name, _ in names), capacity=capacity, expiry=expiry, manual_ack=ack == "manual"
        )
        sink: Subscriber | Rejoining | Consumer = subscriber
        if since is not None:
            sink = Rejoining(subscriber, self.layer.is_after)
        elif consumer_group is not None:
            sink = Consumer(subscriber, self._line(groups[0]), groups[0], consumer_group)
        try:
            for name, is_pattern in names:
                for line in self._lines_of(name, is_pattern):
                    await line.topics.attach(name, sink, pattern=is_pattern)
            if since is not None and isinstance(sink, Rejoining):
                sink.begin(since, await self.history_frames(groups[0], since=since, limit=None))
            if isinstance(sink, Consumer):
                await sink.join()
            yield subscriber
        finally:
            for name, is_pattern in names:
                self._detach(name, sink, is_pattern)
            sink.close()
            subscriber.clear()

    def _consumer_group_of(self, names: Sequence[tuple[str, bool]]) -> str | None:
        """The one that the layer has for every subscription."""
        layer = next(iter(self._lines_of(*names[0]))).layer
        return layer.consumer_group if isinstance(layer, Acknowledging) else None

    # ---- sinks --------------------------------------------------------------------------------------------------

    def mailbox(
        self, name: str, *, capacity: int | None = None, expiry: float | None = None, manual_ack: bool = False
    ) -> Subscriber:
        """A subscriber that listens to nothing yet; see `attach`."""
        self._open()
        return Subscriber(
            name,
            capacity=self._capacity if capacity is None else capacity,
            expiry=self._expiry if expiry is None else expiry,
            decode=self._decode,
            new_waiter=self._new_waiter,
            losses=self.losses,
            manual_ack=manual_ack,
        )

    async def attach(self, group: str, sink: Sink) -> None:
        """Have the events of a group put into ``sink`` too. In effect when it returns; if it raises, not at all."""
        await self._line(group).topics.attach(group, sink)

    def is_attached(self, group: str, sink: Sink) -> bool:
        """Whether `attach` was called and has not been undone and has not failed."""
        return self._lines is not None and self._line(group).topics.is_attached(group, sink)

    def detach(self, group: str, sink: Sink) -> None:
        """Undo `attach`, at once; nothing to do once the Channel is closed."""
        self._detach(group, sink, False)

    def _detach(self, name: str, sink: Sink, is_pattern: bool) -> None:
        if self._lines is not None:
            for line in self._lines_of(name, is_pattern):
                line.topics.detach(name, sink, pattern=is_pattern)

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, frame: bytes, *, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put`; raises `ListenerClosed` and `DeliveryUnknown` as `publish` does."""
        line = self._line(queue)
        life = await line.link.up()
        try:
            await line.layer.put(queue, frame, capacity=capacity, expiry=expiry)
        except ListenerClosed as error:
            raise line.lost(life, f"to queue {queue}", error) from error

    async def take(self, queue: str) -> bytes:
        """`BaseChannelLayer.take`, over any number of outages."""
        line = self._line(queue)
        return await line.outlast(lambda: line.layer.take(queue))

    async def take_job(self, queue: str, dead_letters: str) -> Event[bytes]:
        """`Acknowledging.take_job`, over any number of outages."""
        line = self._line(queue)
        layer = require_acknowledging(line.layer)
        return await line.outlast(lambda: layer.take_job(queue, dead_letters))

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        """`BaseChannelLayer.bind`."""
        line = self._line(group)
        require_binds_elsewhere(self.layer.parts)
        await line.insist(lambda: line.layer.bind(group, queue, capacity=capacity, expiry=expiry, lifetime=lifetime))

    async def unbind(self, group: str, queue: str) -> None:
        """`BaseChannelLayer.unbind`."""
        line = self._line(group)
        await line.insist(lambda: line.layer.unbind(group, queue))

    async def purge(self, prefix: str) -> None:
        """`BaseChannelLayer.purge`."""
        for line in self._open().values():
            await line.insist(partial(line.layer.purge, prefix))

    async def _put_bound(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        try:
            await self.put(queue, message, capacity=capacity, expiry=expiry)
        except ListenerClosed as error:
            # Another broker's death is no reason to end this one's life.
            raise ChannelLayerError(
                f"A message was published, but perhaps not put into queue {queue}, which is bound to its group: {error}"
            ) from error

    # ---- state --------------------------------------------------------------------------------------------------

    async def connected(self) -> None:
        """Wait for the links to all brokers. Raises `ListenerClosed` after ``publish_timeout`` seconds."""
        for line in self._open().values():
            await line.link.up()

    @property
    def outages(self) -> int:
        """How often an established link was lost."""
        return sum(line.link.outages for line in self._open().values())

    @property
    def topics(self) -> int:
        """How many groups and patterns this node listens to; a pattern counts once for each broker."""
        return sum(len(line.topics) for line in self._open().values())

    def _open(self) -> dict[BaseChannelLayer, Line]:
        if self._lines is None:
            raise ChannelClosed(f"The Channel to {self.layer.address} is not open; use it inside `async with`")
        return self._lines

    def _line(self, name: str) -> Line:
        return (self._lines or self._open())[self.layer.part_of(name)]

    def _lines_of(self, name: str, is_pattern: bool) -> Iterable[Line]:
        """Where a group is, or where groups may be that match a pattern."""
        return self._open().values() if is_pattern else (self._line(name),)


def _no_report(*what: object) -> None:
    """Whoever wants gaps reported passes ``on_gap`` and ``on_missed``."""
