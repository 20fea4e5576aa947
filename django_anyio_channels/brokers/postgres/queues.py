"""Normal channels in a table: concurrent puts share a statement, and the readers of a session share what it takes."""

from __future__ import annotations

import asyncio
import logging
from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from ...core.exceptions import ChannelLayerError, DeliveryUnknown, ListenerClosed, QueueFull
from ...core.stats import RateLimitedLogger
from ..common.batching import Batcher
from ..common.waiters import WaiterQueue
from . import statements as sql
from .access import TableAccess, maintain
from .connection import Connection
from .payloads import wake_channel
from .tables import QUEUES

_REQUEUE_DELAY = 0.25
"""Seconds that a message which was taken for a cancelled reader waits for the next reader of this node."""

_POLL_INTERVAL = 5.0
"""Seconds between polls without a notification: a node that dies while it takes notifies nobody."""

_POLLS_BEFORE_UNLISTEN = 2
_POLLS_BETWEEN_SWEEPS = 6
MAX_BATCH_BYTES = 1024 * 1024


class Message(NamedTuple):
    """One message to be put into a queue."""

    queue: bytes
    message: bytes
    capacity: int
    expiry: float

    def queue_full(self) -> QueueFull:
        return QueueFull(self.queue.decode(), self.capacity)


def outcomes(messages: Sequence[Message], room: dict[bytes, int]) -> list[QueueFull | None]:
    """Return an error for each message that found its queue full; ``room`` is how many were accepted for each queue."""
    found: list[QueueFull | None] = []
    for message in messages:
        room[message.queue] -= 1
        found.append(None if room[message.queue] >= 0 else message.queue_full())
    return found


class Leased(NamedTuple):
    """One message that was taken from its queue, and that no reader has."""

    id: int
    """Unique, and in the order of the queue."""
    message: bytes
    expires: datetime


class LeasedMessages(deque[Leased]):
    """The leased messages of one queue, oldest first."""

    def appendleft(self, leased: Leased, /) -> None:
        """Put a message to its place, which its id gives it."""
        insort(self, leased)


class _QueueReader:
    """One queue that is or was just read here."""

    def __init__(self, queue: bytes, leased: LeasedMessages) -> None:
        self.queue = queue
        self.channel = wake_channel(queue)
        self.leased = leased
        """It outlives the session."""
        self.waiters = WaiterQueue(leased)
        self.may_have_more = True
        self.idle_polls = 0

    @property
    def wants_more(self) -> bool:
        return bool(self.waiters) and self.may_have_more


class Queues:
    """The queues of one session. `on_notification` must be called for each notification that is for no group.

    ``leased`` holds the leased messages by queue, over the sessions of a layer.
    """

    def __init__(
        self, connection: Connection, scripts: Batcher[str, None], leased: dict[bytes, LeasedMessages]
    ) -> None:
        self._scripts = scripts
        self._leased = leased
        self.tables = TableAccess(connection, QUEUES)
        self._readers: dict[bytes, _QueueReader] = {}
        self._by_channel: dict[str, _QueueReader] = {}
        self._wake = asyncio.Event()
        self._closed: ListenerClosed | None = None
        self._polls = 0
        self._requeueing: set[asyncio.Future[None]] = set()
        self._log = RateLimitedLogger()
        self.puts: Batcher[Message, None] = Batcher(self._put, max_bytes=MAX_BATCH_BYTES)
        """The session runs and closes it."""

    # ---- put ----------------------------------------------------------------------------------------------------

    async def put(self, message: Message) -> None:
        """Append. Raises `QueueFull`."""
        await self.puts.call(message, key=message.capacity, size=len(message.message))

    async def _put(self, messages: Sequence[Message]) -> list[QueueFull | None]:
        """Append messages with the same capacity; return an error for each message that found its queue full."""
        return outcomes(messages, await self._put_within_capacity(messages))

    async def _put_within_capacity(self, messages: Sequence[Message]) -> dict[bytes, int]:
        """Return how many of the first messages for each queue were accepted."""
        queues = [message.queue for message in messages]
        contents = sql.text_array(each.message for each in messages), sql.text_array(each.expiry for each in messages)
        capacity = messages[0].capacity
        if len(set(queues)) == 1:
            ((accepted,),) = await self.tables.run(sql.PUT, queues[0], *contents, capacity, wake_channel(queues[0]))
            return {queues[0]: accepted}
        return dict(
            await self.tables.run(
                sql.PUT_MANY, sql.text_array(queues), *contents, capacity, list(map(wake_channel, queues))
            )
        )

    # ---- take ---------------------------------------------------------------------------------------------------

    async def take(self, queue: bytes) -> bytes:
        """Wait for the oldest message."""
        reader = self._reader(queue)
        waiter = reader.waiters.join()
        reader.waiters.dispatch()
        self._wake.set()
        try:
            return (await reader.waiters.wait(waiter)).message
        except asyncio.CancelledError:
            self._requeue_later(reader)
            raise

    def _reader(self, queue: bytes) -> _QueueReader:
        reader = self._readers.get(queue)
        if reader is None:
            reader = _QueueReader(queue, self._leased.setdefault(queue, LeasedMessages()))
            self._readers[queue] = reader
        return reader

    def on_notification(self, channel: str) -> None:
        """Take again if messages were put into a queue that is read here."""
        reader = self._by_channel.get(channel)
        if reader is not None:
            reader.may_have_more = True
            if reader.waiters:
                self._wake.set()

    async def run(self) -> None:
        """Take for the waiting readers, until `close`."""
        for queue in self._leased:
            self._requeue_later(self._reader(queue))
        while self._closed is None:
            readers = [reader for reader in self._readers.values() if reader.wants_more]
            if readers:
                try:
                    await self._take_for(readers)
                except ListenerClosed:
                    return  # the session is over; `close` fails the readers
                except ChannelLayerError as error:
                    for reader in readers:
                        reader.waiters.fail_all(error)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _take_for(self, readers: Sequence[_QueueReader]) -> None:
        unlistened = {reader.channel: reader for reader in readers if reader.channel not in self._by_channel}
        if unlistened:
            await self.tables.require()
            self._by_channel.update(unlistened)
            await self._scripts.call(sql.listen(*unlistened))
        wanted = {reader.queue: (reader, len(reader.waiters)) for reader in readers if reader.waiters}
        for reader, _ in wanted.values():
            reader.may_have_more = False  # from now on a notification may come
        if not wanted:
            return
        counts = sql.text_array(count for _, count in wanted.values())
        for queue, *message in await self.tables.run(sql.TAKE, sql.text_array(wanted), counts):
            wanted[queue][0].leased.appendleft(Leased(*message))
        for reader, count in wanted.values():
            if len(reader.leased) >= count:
                reader.may_have_more = True
            reader.waiters.dispatch()
            self._requeue_later(reader)

    def _requeue_later(self, reader: _QueueReader) -> None:
        if reader.leased and self._closed is None:
            loop = asyncio.get_running_loop()
            loop.call_later(_REQUEUE_DELAY, self._requeue_if_leased, reader, reader.leased[0])

    def _requeue_if_leased(self, reader: _QueueReader, oldest: Leased) -> None:
        if oldest in reader.leased and self._closed is None:
            task = asyncio.ensure_future(self._requeue([reader]))
            self._requeueing.add(task)
            task.add_done_callback(self._requeueing.discard)

    async def _requeue(self, readers: Iterable[_QueueReader]) -> None:
        rows = [(reader, leased) for reader in readers for leased in reader.leased]
        if not rows:
            return
        for reader, _ in rows:
            reader.leased.clear()
        columns = zip(*((reader.queue, *leased) for reader, leased in rows), strict=True)
        channels = sorted({reader.channel for reader, _ in rows})
        try:
            await self.tables.run(sql.REQUEUE, *map(sql.text_array, columns), channels)
        except DeliveryUnknown as error:
            # Once at most: they may be back in their queues already, and be taken by others.
            self._log.write(logging.ERROR, "%d messages whose readers were cancelled may be lost: %s", len(rows), error)
        except ChannelLayerError:
            for reader, leased in rows:
                reader.leased.appendleft(leased)

    # ---- bindings, purge ----------------------------------------------------------------------------------------

    async def bind(self, topic: bytes, queue: bytes, capacity: int, expiry: float, lifetime: float) -> None:
        await self.tables.run(sql.BIND, topic, queue, capacity, expiry, lifetime)

    async def unbind(self, topic: bytes, queue: bytes) -> None:
        await self.tables.run(sql.UNBIND, topic, queue)

    async def length(self, queue: bytes) -> int:
        """Return how many messages wait in a queue."""
        ((waiting,),) = await self.tables.run(sql.QUEUE_LENGTH, queue)
        return int(waiting)

    async def purge(self, prefix: bytes) -> None:
        for queue, leased in self._leased.items():
            if queue.startswith(prefix):
                leased.clear()
        await self.tables.run(sql.PURGE, prefix)

    # ---- maintenance --------------------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Poll and sweep every few seconds, until the session is over."""
        await maintain(_POLL_INTERVAL, self._poll, "Expired messages of the queues cannot be deleted")

    async def _poll(self) -> None:
        """Take once more for those who wait, forget queues that nobody reads, and delete what has expired."""
        unused = []
        for reader in self._readers.values():
            reader.may_have_more = True
            reader.idle_polls = 0 if reader.waiters or reader.leased else reader.idle_polls + 1
            if reader.idle_polls > _POLLS_BEFORE_UNLISTEN:
                unused.append(reader)
        self._wake.set()
        for reader in unused:
            del self._readers[reader.queue], self._leased[reader.queue]
        channels = [reader.channel for reader in unused if self._by_channel.pop(reader.channel, None)]
        if channels:
            await self._scripts.call(sql.unlisten(*channels))
        self._polls += 1
        if self.tables.found is not None and self._polls % _POLLS_BETWEEN_SWEEPS == 0:
            await self.tables.run(sql.SWEEP)

    # ---- the end ------------------------------------------------------------------------------------------------

    def close(self, error: ListenerClosed) -> None:
        """Fail every reader that waits."""
        self._closed = error
        for reader in self._readers.values():
            reader.waiters.fail_all(error)
        self._wake.set()

    async def requeue_all(self) -> None:
        """After `close`: requeue the leased messages, or keep them for the next session."""
        await self._requeue(self._readers.values())
