"""Client side of acknowledged delivery: local consumers, pending deliveries, acknowledgements."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import hiredis

from ....core.events import DONE, Event, Gap
from ....core.exceptions import ListenerClosed
from ....core.stats import RateLimitedLogger
from ...common.waiters import WaiterQueue
from ..connection import fail
from ..queues import REQUEUE_DELAY
from ..scripts import is_noscript
from ..session import Session
from .consumer_groups import WorkSource

_MAX_DELIVERIES = 100
"""In one call."""
_IDLE_SECONDS = 60.0
"""Without a waiting task, after which a consumer is closed."""
_CLOSE_SECONDS = 1.0


class Delivery(NamedTuple):
    """A message that the server has delivered to this node."""

    work_id: bytes
    deliveries: int
    message: bytes


class Consumer:
    """The tasks of this node that wait for work of one source."""

    def __init__(self, source: WorkSource, group: str) -> None:
        self.source = source
        self.group = group
        self.prefetched: deque[Delivery] = deque()
        """Deliveries that are here and not yet with a task."""
        self.waiters: WaiterQueue[Delivery] = WaiterQueue(self.prefetched)
        self.number = 0
        self.answered = True
        """Call `number` has brought its deliveries; else it is repeated in the next session."""
        self.changed: asyncio.Event = asyncio.Event()
        """Set when there may be something to do."""
        self.used: float = 0.0
        """When a task waited last."""
        self.serving: asyncio.Task[None] | None = None


class _AckHandle:
    """Acknowledges one delivery when all holders of its event have released it."""

    def __init__(self, acknowledge: Callable[[], Awaitable[None]]) -> None:
        self._holders = 1
        self._acknowledge = acknowledge

    def retain(self) -> None:
        self._holders += 1

    def release(self) -> Awaitable[None]:
        self._holders -= 1
        return DONE if self._holders else self._acknowledge()


class DeliveryManager:
    """The consumers of a layer, over all its sessions.

    While tasks wait, a consumer asks for as many deliveries as there are tasks: when a task begins to wait, when it is
    notified that there may be more, and when a delivery to another node becomes visible again. A call whose reply was
    lost with its connection is repeated in the next session, and so is an acknowledgement.
    """

    def __init__(self, redeliver_after: float) -> None:
        self._node = uuid4().hex
        self._timeout = max(1, round(redeliver_after * 1000))
        self._consumers: dict[bytes, Consumer] = {}
        self._session: Session | None = None
        self._closing = False
        self._calls = 0
        self._pending: dict[tuple[WorkSource, bytes], float] = {}
        """Deliveries that were not acknowledged, and until when they are invisible to other nodes."""
        self._acks: dict[tuple[WorkSource, bytes], asyncio.Future[None]] = {}
        """Acknowledgements that the server has not confirmed."""
        self._log = RateLimitedLogger()

    async def receive(self, source: WorkSource, group: str) -> Event[bytes]:
        """Wait for a delivery in a session that has begun."""
        loop = asyncio.get_running_loop()
        consumer = self._consumers.get(source.pending)
        if consumer is None:
            consumer = self._consumers[source.pending] = Consumer(source, group)
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
        self._add_pending(source, delivery, loop.time())
        ack_handle = _AckHandle(partial(self._acknowledge, source, delivery.work_id))
        position = source.position(delivery.work_id)
        return Event(group, delivery.message, None, ack_handle, position, delivery.deliveries)

    def notify_published(self, group: str) -> None:
        """There may be something for the consumers of a group."""
        for consumer in self._consumers.values():
            if consumer.group == group:
                consumer.changed.set()

    # ---- sessions -----------------------------------------------------------------------------------------------

    def start(self, session: Session) -> None:
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

    def on_end(self, error: ListenerClosed) -> None:
        """As `SubscriptionObserver.on_end`. A session that ended before this one may report it late."""
        if self._session is not None and self._session.error is not None:
            self.end(error)

    async def close_gracefully(self, session: Session, error: ListenerClosed) -> None:
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

    async def _release_pending(self, session: Session) -> None:
        pending: dict[WorkSource, list[bytes]] = {}
        for source, work_id in self._pending:
            pending.setdefault(source, []).append(work_id)
        self._pending.clear()
        for source, ids in pending.items():
            await self._release(source, session, ids, undelivered=False)

    # ---- serving ------------------------------------------------------------------------------------------------

    def _serve(self, consumer: Consumer) -> None:
        loop = asyncio.get_running_loop()
        consumer.used = loop.time()
        consumer.changed.set()
        if consumer.serving is None and self._session is not None:
            consumer.serving = loop.create_task(self._serve_in(consumer, self._session))

    async def _serve_in(self, consumer: Consumer, session: Session) -> None:
        try:
            await self._watch(consumer, session)
            while self._session is session and await self._step(consumer, session):
                pass
        except Exception as error:
            consumer.waiters.fail_all(error)
        finally:
            consumer.serving = None

    async def _watch(self, consumer: Consumer, session: Session) -> None:
        """Have the consumer notified before it asks for the first time, so that nothing is missed in between."""
        while True:
            reply = await session.subscriptions.watch(
                consumer.source.notify_channel, lambda message: consumer.changed.set()
            )
            if not _must_retry(consumer, session, reply):
                break
        session.raise_for_error(reply)

    async def _step(self, consumer: Consumer, session: Session) -> bool:
        """Ask if a task waits, and wait until there may be more to do. Returns whether to go on."""
        loop = asyncio.get_running_loop()
        consumer.changed.clear()
        seconds = 0.0
        if consumer.waiters or not consumer.answered:
            seconds = await self._fetch(consumer, session)
        unused = loop.time() - consumer.used
        if consumer.prefetched and (self._closing or unused >= REQUEUE_DELAY):
            ids = [delivery.work_id for delivery in consumer.prefetched]
            consumer.prefetched.clear()
            await self._release(consumer.source, session, ids, undelivered=True)
            return True
        if not consumer.waiters:
            if self._closing or unused >= _IDLE_SECONDS:
                del self._consumers[consumer.source.pending]
                session.subscriptions.unwatch(consumer.source.notify_channel)
                return False
            seconds = REQUEUE_DELAY if consumer.prefetched else _IDLE_SECONDS
        timer = loop.call_later(seconds, consumer.changed.set)
        await consumer.changed.wait()
        timer.cancel()
        return True

    async def _fetch(self, consumer: Consumer, session: Session) -> float:
        """Have as much delivered as there are waiting tasks. Returns after how many seconds there may be more."""
        count = min(len(consumer.waiters), _MAX_DELIVERIES)
        if consumer.answered:
            self._calls += 1
            consumer.number = self._calls
            consumer.answered = False
        reply = await consumer.source.deliver(session, self._node, consumer.number, count, self._timeout)
        if _must_retry(consumer, session, reply):
            return 0.0
        consumer.answered = True
        consumer.used = asyncio.get_running_loop().time()
        lost, milliseconds, *delivered = session.raise_for_error(reply)
        if lost:
            session.subscriptions.events.add(Gap(consumer.group, b""))
        consumer.prefetched.extend(Delivery(work_id, int(number), message) for work_id, number, message in delivered)
        consumer.waiters.dispatch()
        return 0.0 if len(delivered) >= count else milliseconds / 1000

    async def _release(self, source: WorkSource, session: Session, ids: list[bytes], *, undelivered: bool) -> None:
        reply = await source.release(session, undelivered, ids)
        if isinstance(reply, hiredis.ReplyError):
            text = "%d messages of %s cannot be released, and are delivered again later: %s"
            self._log.write(logging.ERROR, text, len(ids), source.name.decode(), session.translate_error(reply))

    # ---- acknowledging ------------------------------------------------------------------------------------------

    def _add_pending(self, source: WorkSource, delivery: Delivery, now: float) -> None:
        # What is visible to others comes first, since all are invisible for the same time.
        while self._pending and next(iter(self._pending.values())) < now:
            del self._pending[next(iter(self._pending))]
        self._pending.pop((source, delivery.work_id), None)
        self._pending[source, delivery.work_id] = now + self._timeout / 1000

    def _acknowledge(self, source: WorkSource, work_id: bytes) -> Awaitable[None]:
        key = source, work_id
        self._pending.pop(key, None)
        ack = self._acks.get(key)
        if ack is None:
            ack = self._acks[key] = asyncio.get_running_loop().create_future()
            if self._session is None:
                fail(ack, ListenerClosed("Not connected; the acknowledgement is repeated in the next session"))
            else:
                self._send_ack(self._session, key)
        return ack

    def _send_ack(self, session: Session, key: tuple[WorkSource, bytes], by_hash: bool = True) -> None:
        source, work_id = key
        try:
            reply = source.acknowledge(session, work_id, by_hash)
        except ListenerClosed as error:
            fail(self._acks[key], error)
        else:
            reply.add_done_callback(partial(self._confirm_ack, session, key))

    def _confirm_ack(self, session: Session, key: tuple[WorkSource, bytes], reply: asyncio.Future[Any]) -> None:
        error = reply.exception()
        if error is not None:
            fail(self._acks[key], error)
            return
        if is_noscript(reply.result()):
            self._send_ack(session, key, by_hash=False)
            return
        ack = self._acks.pop(key)
        if isinstance(reply.result(), hiredis.ReplyError):
            fail(ack, session.translate_error(reply.result()))
        elif not ack.done():
            ack.set_result(None)


def _must_retry(consumer: Consumer, session: Session, reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and session.is_transient(reply, consumer.group)
