"""The tasks of this node that wait for messages of queues, and the readers that the queues' owners know."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import count
from math import inf
from time import monotonic

from ....core.exceptions import ChannelLayerError, ListenerClosed
from ...common.waiters import WaiterQueue
from ..topics import to_group
from .handoff import HandOffs, OrphanedQueue
from .messaging import Message, Messaging
from .requests import Requests
from .store import QueuedMessage, Store, unpack

_LINGER_SECONDS = 0.1
"""How long an owner still knows a reader without a task, and a message for it stays at this node."""
_POLLING_SECONDS = 1.0
"""A reader that never waits finds what came since its last call, if that is not longer ago than this."""


class _ReaderQueue:
    """The waiting tasks of one queue, and the messages that came for them."""

    def __init__(self) -> None:
        self.known: dict[int, None] = {}
        """The readers that the owner knows, by their numbers. Which task belongs to which does not matter."""
        self.undelivered = Store()
        """Messages that came when no task waited any more."""
        self.waiters: WaiterQueue[QueuedMessage] = WaiterQueue(self.undelivered)
        self.returning = False
        """Undelivered messages are on their way to the owner. Newer ones must follow, or they would overtake them."""
        self.timer: asyncio.TimerHandle | None = None
        self.gone_at = -inf
        """When a task was last cancelled."""
        self.linger_seconds = _LINGER_SECONDS
        """How long the next task is expected: one that polls must find what came since its last call."""

    def join(self) -> asyncio.Future[QueuedMessage]:
        """Add a waiting task."""
        since = monotonic() - self.gone_at
        self.linger_seconds = _LINGER_SECONDS if since > _POLLING_SECONDS else max(_LINGER_SECONDS, 2 * since)
        return self.waiters.join()


class Readers:
    """Takes messages out of queues.

    The owner still knows the reader of a cancelled task for a moment, and the next task takes its place. So polling
    costs no packets. A message that comes meanwhile waits here, and then goes back to the owner.
    """

    def __init__(self, messaging: Messaging, requests: Requests, hand_offs: HandOffs) -> None:
        self._messaging = messaging
        self._node = messaging.node
        self._start_soon = messaging.start_soon
        self._leaving = False
        self._requests = requests
        self._hand_offs = hand_offs
        self._numbers = count(1)
        self._queues: defaultdict[bytes, _ReaderQueue] = defaultdict(_ReaderQueue)
        self._error: ListenerClosed | None = None

    async def take(self, topic: bytes) -> bytes:
        """Wait for the oldest message of a queue."""
        if self._error is not None:
            raise ListenerClosed(*self._error.args)
        queue = self._queues[topic]
        if queue.undelivered and not queue.returning:
            return queue.undelivered.popleft().payload
        waiter = queue.join()
        self._add_missing_readers(topic, queue)
        try:
            return (await queue.waiters.wait(waiter)).payload
        except asyncio.CancelledError:
            queue.gone_at = monotonic()
            raise
        finally:
            self._linger(topic, queue)

    def _add_missing_readers(self, topic: bytes, queue: _ReaderQueue) -> None:
        while len(queue.known) < len(queue.waiters) and not self._leaving:
            number = next(self._numbers)
            queue.known[number] = None
            self._start_soon(self._add_reader(topic, queue, number))

    async def _add_reader(self, topic: bytes, queue: _ReaderQueue, number: int) -> None:
        try:
            await self._announce(topic, [number])
        except ChannelLayerError as error:
            queue.known.pop(number, None)
            # The end of a session fails all tasks, a refusal one.
            if isinstance(error, ListenerClosed) or not queue.waiters.fail_one(error):
                raise

    async def _announce(self, topic: bytes, numbers: list[int]) -> None:
        await self._messaging.join()
        await self._requests.deliver(topic, Message("take", self._node, 0, (numbers,)))

    def repeat(self) -> None:
        """Tell all owners again which readers wait: an owner may have died."""
        for topic, queue in self._queues.items():
            if queue.known and not self._leaving:
                self._start_soon(self._announce(topic, list(queue.known)))

    def receive(self, reply: Message) -> None:
        """Take a message for a reader. Without a task it waits for the next one, or goes back soon."""
        if self._messaging.has_left:
            return  # its owner knows, and gives it to another reader
        topic = reply.arguments[0].encode()
        queue = self._queues[topic]
        queue.known.pop(reply.number, None)
        queue.undelivered.appendleft(unpack(reply.arguments[1]))
        if not queue.returning:
            queue.waiters.dispatch()
        self._linger(topic, queue)

    def purge(self, prefix: str) -> None:
        """Drop the undelivered messages of queues whose names begin with ``prefix``."""
        for topic, queue in self._queues.items():
            if to_group(topic).startswith(prefix):
                queue.undelivered.clear()

    def _linger(self, topic: bytes, queue: _ReaderQueue) -> None:
        if self._error is not None:
            self._hand_offs.save(OrphanedQueue(topic, queue.undelivered.clear()))
        elif queue.timer is None and len(queue.known) >= len(queue.waiters) and self._queues.get(topic) is queue:
            loop = asyncio.get_running_loop()
            queue.timer = loop.call_later(queue.linger_seconds, self._end_linger, topic, queue)

    def _end_linger(self, topic: bytes, queue: _ReaderQueue) -> None:
        queue.timer = None
        surplus = list(queue.known)[len(queue.waiters) :]
        for number in surplus:
            del queue.known[number]
        if surplus:
            self._start_soon(self._requests.send(topic, "stop", surplus))
        if queue.returning:
            return
        if queue.undelivered:
            self._start_soon(self._return_undelivered(topic, queue))
        elif not queue.known:
            # It only says when its last task was cancelled, which matters while it may be polled.
            if monotonic() - queue.gone_at >= _POLLING_SECONDS:
                del self._queues[topic]
            else:
                queue.linger_seconds = _POLLING_SECONDS
                self._linger(topic, queue)

    async def _return_undelivered(self, topic: bytes, queue: _ReaderQueue) -> None:
        queue.returning = True
        try:
            while messages := queue.undelivered.clear():
                await self._hand_offs.give(OrphanedQueue(topic, messages))
        finally:
            queue.returning = False
            queue.waiters.dispatch()
            self._add_missing_readers(topic, queue)
            self._linger(topic, queue)

    async def close(self) -> None:
        """Read no more, and return all undelivered messages."""
        self._leaving = True
        await self._messaging.leave()
        await asyncio.gather(*[self._return_undelivered(topic, queue) for topic, queue in self._queues.items()])

    def end(self, error: ListenerClosed) -> None:
        """Fail all waiting tasks, and keep undelivered messages for the next session."""
        self._error = error
        for topic, queue in self._queues.items():
            if queue.timer is not None:
                queue.timer.cancel()
            queue.waiters.fail_all(error)
            self._linger(topic, queue)
