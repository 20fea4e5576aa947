"""Client side of acknowledged delivery: local consumers, pending deliveries, acknowledgements."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar
from uuid import uuid4

from ...core.events import Event, Gap
from ...core.exceptions import ChannelLayerError, ListenerClosed
from ...core.stats import RateLimitedLogger
from .acknowledgement import CountedAckHandle, Delivery, PendingDeliveries
from .event_stream import EventStream
from .waiters import WaiterQueue, fail

_MAX_DELIVERIES = 100
"""In one call."""
_REQUEUE_DELAY = 0.02
"""Seconds for which a delivery waits for another task of this node, before it goes to other nodes."""
_IDLE_SECONDS = 60.0
"""Without a waiting task, after which a consumer is closed."""
_CLOSE_SECONDS = 1.0


class Deliveries(NamedTuple):
    """What a broker replies to a call for deliveries."""

    lost: bool
    """Whether something was lost before it was delivered to any consumer of the source."""
    seconds: float
    """After how many seconds there may be more that no notification announces: when a delivery is due again."""
    delivered: list[Delivery]


class WorkSession(Protocol):
    """A session of a layer, as its consumers see it."""

    @property
    def events(self) -> EventStream:
        """Where the events of the session go."""


S_contra = TypeVar("S_contra", bound=WorkSession, contravariant=True)


class WorkSource(Hashable, Protocol[S_contra]):
    """A queue, or a group as one consumer group sees it: what a broker stores, and how it is asked. No state.

    Two objects of the same queue or group are equal. Each method raises `ListenerClosed` when the session is over, and
    another `ChannelLayerError` for what the broker refuses.
    """

    @property
    def group(self) -> str:
        """The group, or the queue."""

    def position(self, work_id: bytes) -> str | None:
        """Return the position of work in the history that it comes from, if it comes from one."""

    async def watch(self, session: S_contra, changed: Callable[[], None]) -> None:
        """Have ``changed`` called when there may be more to deliver, from when this returns to `unwatch`."""

    def unwatch(self, session: S_contra) -> None:
        """Undo `watch`, without waiting."""

    async def deliver(self, session: S_contra, node: str, number: int, count: int, seconds: float) -> Deliveries | None:
        """Deliver to a node up to ``count`` that is due again or new; other nodes get it after so many seconds.

        The same number once more, after the reply was lost with its connection, brings the same deliveries again, with
        the same count of deliveries. Returns None if the call is to be repeated, because the broker could not do it
        now.
        """

    async def release(self, session: S_contra, ids: list[bytes], *, undelivered: bool) -> None:
        """Make deliveries due at once, and notify; those that no task has had count as not delivered."""

    def acknowledge(self, session: S_contra, work_id: bytes) -> asyncio.Future[None]:
        """End a delivery, whichever node has it; one that has ended is no error. Sends at once."""


class Consumer(Generic[S_contra]):
    """The tasks of this node that wait for work of one source."""

    def __init__(self, source: WorkSource[S_contra]) -> None:
        self.source = source
        self.prefetched: deque[Delivery] = deque()
        """Deliveries that are here and not yet with a task."""
        self.waiters = WaiterQueue(self.prefetched)
        self.number = 0
        self.answered = True
        """Call `number` has brought its deliveries; else it is repeated in the next session."""
        self.changed = asyncio.Event()
        """Set when there may be something to do."""
        self.used = 0.0
        """When a task waited last."""
        self.serving: asyncio.Task[None] | None = None


class DeliveryManager(Generic[S_contra]):
    """The consumers of a layer, over all its sessions.

    While tasks wait, a consumer asks for as many deliveries as there are tasks: when a task begins to wait, when it is
    notified that there may be more, and when a delivery to another node becomes visible again. A call whose reply was
    lost with its connection is repeated in the next session, and so is an acknowledgement.
    """

    def __init__(self, redeliver_after: float) -> None:
        self._node = uuid4().hex
        self._redeliver_after = redeliver_after
        self._consumers: dict[WorkSource[S_contra], Consumer[S_contra]] = {}
        self._session: S_contra | None = None
        self._closing = False
        self._calls = 0
        self._pending = PendingDeliveries[WorkSource[S_contra]](redeliver_after)
        self._acks: dict[tuple[WorkSource[S_contra], bytes], asyncio.Future[None]] = {}
        """Acknowledgements that the server has not confirmed."""
        self._log = RateLimitedLogger()

    async def receive(self, source: WorkSource[S_contra]) -> Event[bytes]:
        """Wait for a delivery in a session that has begun."""
        loop = asyncio.get_running_loop()
        consumer = self._consumers.get(source)
        if consumer is None:
            consumer = self._consumers[source] = Consumer(source)
        waiter = consumer.waiters.join()
        consumer.waiters.dispatch()
        if not waiter.done():
            self._serve(consumer)
        try:
            delivery = await consumer.waiters.wait(waiter)
        except BaseException:
            if consumer.prefetched:
                self._serve(consumer)
            consumer.used = loop.time()
            raise
        self._pending.add(source, delivery.work_id, loop.time())
        ack_handle = CountedAckHandle(partial(self._acknowledge, source, delivery.work_id))
        position = source.position(delivery.work_id)
        return Event(source.group, delivery.message, None, ack_handle, position, delivery.deliveries)

    def notify_published(self, group: str) -> None:
        """There may be something for the consumers of a group."""
        for consumer in self._consumers.values():
            if consumer.source.group == group:
                consumer.changed.set()

    # ---- sessions -----------------------------------------------------------------------------------------------

    def start(self, session: S_contra) -> None:
        """Begin a session; what the last one left unanswered is repeated."""
        self._session = session
        self._closing = False
        for key in self._acks:
            self._send_ack(session, key)
        for consumer in self._consumers.values():
            if not consumer.answered or consumer.prefetched:
                self._serve(consumer)

    def end(self, error: ListenerClosed) -> None:
        """The session has ended."""
        self._session = None
        self._fail_waiters(error)
        for ack in self._acks.values():
            fail(ack, error)

    async def close_gracefully(self, session: S_contra, error: ListenerClosed) -> None:
        """End the session; what is pending at this node goes to others, if it can within a second."""
        self._closing = True
        self._fail_waiters(error)
        # Let tasks that were cancelled with a delivery put it back.
        await asyncio.sleep(0)
        tasks = [consumer.serving for consumer in self._consumers.values() if consumer.serving is not None]
        tasks.append(asyncio.get_running_loop().create_task(self._release_pending(session)))
        await asyncio.wait([*tasks, *self._acks.values()], timeout=_CLOSE_SECONDS)
        for task in tasks:
            task.cancel()
        self.end(error)

    def _fail_waiters(self, error: ListenerClosed) -> None:
        for consumer in self._consumers.values():
            consumer.waiters.fail_all(error)
            consumer.changed.set()

    async def _release_pending(self, session: S_contra) -> None:
        for source, ids in self._pending.pop_all().items():
            await self._release(source, session, ids, undelivered=False)

    # ---- serving ------------------------------------------------------------------------------------------------

    def _serve(self, consumer: Consumer[S_contra]) -> None:
        loop = asyncio.get_running_loop()
        consumer.used = loop.time()
        consumer.changed.set()
        if consumer.serving is None and self._session is not None:
            consumer.serving = loop.create_task(self._serve_in(consumer, self._session))

    async def _serve_in(self, consumer: Consumer[S_contra], session: S_contra) -> None:
        try:
            # First, so that nothing is missed before it asks.
            await consumer.source.watch(session, consumer.changed.set)
            while self._session is session and await self._step(consumer, session):
                pass
        except Exception as error:
            consumer.waiters.fail_all(error)
        finally:
            consumer.serving = None

    async def _step(self, consumer: Consumer[S_contra], session: S_contra) -> bool:
        """Ask if a task waits, and wait until there may be more to do. Returns whether to go on."""
        loop = asyncio.get_running_loop()
        consumer.changed.clear()
        seconds = 0.0
        if consumer.waiters or not consumer.answered:
            seconds = await self._fetch(consumer, session)
        unused = loop.time() - consumer.used
        if consumer.prefetched and (self._closing or unused >= _REQUEUE_DELAY):
            ids = [delivery.work_id for delivery in consumer.prefetched]
            consumer.prefetched.clear()
            await self._release(consumer.source, session, ids, undelivered=True)
            return True
        if not consumer.waiters:
            if self._closing or unused >= _IDLE_SECONDS:
                del self._consumers[consumer.source]
                consumer.source.unwatch(session)
                return False
            seconds = _REQUEUE_DELAY if consumer.prefetched else _IDLE_SECONDS
        timer = loop.call_later(seconds, consumer.changed.set)
        await consumer.changed.wait()
        timer.cancel()
        return True

    async def _fetch(self, consumer: Consumer[S_contra], session: S_contra) -> float:
        """Have as much delivered as there are waiting tasks. Returns after how many seconds there may be more."""
        count = min(len(consumer.waiters), _MAX_DELIVERIES)
        if consumer.answered:
            self._calls += 1
            consumer.number = self._calls
            consumer.answered = False
        source = consumer.source
        reply = await source.deliver(session, self._node, consumer.number, count, self._redeliver_after)
        if reply is None:
            return 0.0
        consumer.answered = True
        consumer.used = asyncio.get_running_loop().time()
        if reply.lost:
            session.events.add(Gap(source.group, b""))
        consumer.prefetched.extend(reply.delivered)
        consumer.waiters.dispatch()
        return 0.0 if len(reply.delivered) >= count else reply.seconds

    async def _release(
        self, source: WorkSource[S_contra], session: S_contra, ids: list[bytes], *, undelivered: bool
    ) -> None:
        try:
            await source.release(session, ids, undelivered=undelivered)
        except ListenerClosed:
            """The session is over, and so is this."""
        except ChannelLayerError as error:
            text = "%d messages of %s cannot be released, and are delivered again later: %s"
            self._log.write(logging.ERROR, text, len(ids), source.group, error)

    # ---- acknowledging ------------------------------------------------------------------------------------------

    def _acknowledge(self, source: WorkSource[S_contra], work_id: bytes) -> Awaitable[None]:
        key = source, work_id
        self._pending.discard(source, work_id)
        ack = self._acks.get(key)
        if ack is None:
            ack = self._acks[key] = asyncio.get_running_loop().create_future()
            if self._session is None:
                fail(ack, ListenerClosed("Not connected; the acknowledgement is repeated in the next session"))
            else:
                self._send_ack(self._session, key)
        return ack

    def _send_ack(self, session: S_contra, key: tuple[WorkSource[S_contra], bytes]) -> None:
        source, work_id = key
        try:
            reply = source.acknowledge(session, work_id)
        except ListenerClosed as error:
            fail(self._acks[key], error)
        else:
            reply.add_done_callback(partial(self._confirm_ack, key))

    def _confirm_ack(self, key: tuple[WorkSource[S_contra], bytes], reply: asyncio.Future[None]) -> None:
        error = reply.exception()
        if isinstance(error, ListenerClosed):
            fail(self._acks[key], error)
            return
        ack = self._acks.pop(key)
        if error is not None:
            fail(ack, error)
        elif not ack.done():
            ack.set_result(None)
