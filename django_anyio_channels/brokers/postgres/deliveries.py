"""Acknowledged work in a table: what is delivered, for how long other nodes do not get it, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from ...core.capabilities import QueueLength
from ...core.exceptions import ChannelLayerError, ListenerClosed, QueueFull
from ..common.acknowledgement import Delivery
from ..common.batching import Batcher
from ..common.deliveries import Deliveries
from ..common.event_stream import EventStream
from ..common.waiters import fail
from . import statements as sql
from .access import TableAccess, maintain
from .connection import Connection
from .history import Limits
from .payloads import decode_entry, wake_channel
from .queues import MAX_BATCH_BYTES, Message, outcomes
from .tables import JOBS

_POLL_SECONDS = 5.0
"""Between polls without a notification: a node that dies while it takes notifies nobody."""

_SWEEP_INTERVAL = 30.0


class Jobs:
    """Acknowledged work as one session sees it."""

    def __init__(self, connection: Connection, scripts: Batcher[str, None], limits: Limits) -> None:
        self.tables = TableAccess(connection, JOBS)
        self._scripts = scripts
        self._limits = limits
        self.watching: dict[str, Callable[[], None]] = {}
        """What is called for the notifications of a channel."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.acknowledgements: Batcher[bytes, None] = Batcher(self._acknowledge)
        """Ids of work. The session runs and closes it."""
        self.puts: Batcher[Message, None] = Batcher(self._put, max_bytes=MAX_BATCH_BYTES)
        """The same."""

    async def watch(self, channel: str, changed: Callable[[], None]) -> None:
        """Have ``changed`` called for each notification of a channel."""
        self.watching[channel] = changed
        await self._scripts.call(sql.listen(channel))

    def unwatch(self, channel: str) -> None:
        """Undo `watch`, without waiting."""
        del self.watching[channel]
        self._start(self._unlisten(channel))

    async def _unlisten(self, channel: str) -> None:
        if channel not in self.watching:
            with suppress(ChannelLayerError):  # what comes is for nobody
                await self._scripts.call(sql.unlisten(channel))

    def on_notification(self, channel: str) -> bool:
        """Tell whoever watches the channel. Returns whether there is one."""
        changed = self.watching.get(channel)
        if changed is not None:
            changed()
        return changed is not None

    async def join(self, topic: bytes, consumer_group: bytes) -> None:
        """Have a consumer group begin after the last message, unless it has begun."""
        await self.tables.run(sql.JOB_JOIN, topic, *self._limits, consumer_group)

    async def put(self, message: Message) -> None:
        """Append a message that is to outlive a crash. Raises `QueueFull`."""
        await self.puts.call(message, key=message.capacity, size=len(message.message))

    async def _put(self, messages: Sequence[Message]) -> list[QueueFull | None]:
        queues = [message.queue for message in messages]
        contents = sql.text_array(each.message for each in messages), sql.text_array(each.expiry for each in messages)
        capacity, channels = messages[0].capacity, list(map(wake_channel, queues))
        return outcomes(
            messages, dict(await self.tables.run(sql.JOB_PUT, sql.text_array(queues), *contents, capacity, channels))
        )

    async def length(self, queue: bytes) -> QueueLength:
        """Return how many messages of a queue wait, and how many were delivered."""
        ((waiting, pending),) = await self.tables.run(sql.JOB_LENGTH, queue)
        return QueueLength(waiting, pending)

    def acknowledge(self, work_id: bytes) -> asyncio.Future[None]:
        """End a delivery. Those that are acknowledged at the same time share a round trip."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._start(self._confirm(work_id, done))
        return done

    async def wait_acknowledged(self) -> None:
        """Wait for what has been acknowledged before: a node that dies next must not leave that to be done again."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _confirm(self, work_id: bytes, done: asyncio.Future[None]) -> None:
        try:
            await self.acknowledgements.call(work_id)
        except ChannelLayerError as error:
            fail(done, error)
        except asyncio.CancelledError:
            fail(done, ListenerClosed("The event loop ends; the message may be delivered again"))
            raise
        else:
            done.set_result(None)

    async def _acknowledge(self, ids: Sequence[bytes]) -> Sequence[None]:
        await self.tables.run(sql.JOB_ACKNOWLEDGE, list(map(_row_id, ids)))
        return [None] * len(ids)

    async def purge(self, prefix: bytes, *, create: bool) -> None:
        """Drop the work of all queues and groups whose names have a prefix; ``create`` the tables, or use them if any.

        A layer without acknowledged work of its own has no need of the tables.
        """
        if create or await self.tables.exist():
            await self.tables.run(sql.JOB_PURGE, prefix)

    async def maintain(self) -> None:
        """Sweep every half a minute, until the session is over."""
        await maintain(_SWEEP_INTERVAL, self.sweep, "Acknowledged channels cannot be cleaned up")

    async def sweep(self) -> None:
        """Drop what has expired, and what nobody has asked for, if the tables are used here."""
        if self.tables.found is not None:
            await self.tables.run(sql.JOB_SWEEP, self._limits.age_us)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class JobSession(Protocol):
    """A session, as its consumers see it."""

    @property
    def events(self) -> EventStream:
        """Where the events of the session go."""

    @property
    def jobs(self) -> Jobs:
        """The tables."""


class PostgreSQLWork(NamedTuple):
    """A queue, or a group as one consumer group sees it: a `WorkSource`."""

    name: bytes
    consumer_group: bytes | None = None

    @property
    def group(self) -> str:
        return self.name.decode()

    @property
    def source(self) -> bytes:
        """What the rows have."""
        return self.name if self.consumer_group is None else b"%b\0%b" % (self.name, self.consumer_group)

    def position(self, work_id: bytes) -> str | None:
        return work_id.partition(b" ")[2].decode() or None

    async def watch(self, session: JobSession, changed: Callable[[], None]) -> None:
        await session.jobs.watch(wake_channel(self.source), changed)

    def unwatch(self, session: JobSession) -> None:
        session.jobs.unwatch(wake_channel(self.source))

    async def deliver(
        self, session: JobSession, node: str, number: int, count: int, seconds: float
    ) -> Deliveries | None:
        topic = None if self.consumer_group is None else self.name
        await session.jobs.wait_acknowledged()
        *rows, (*_, lost, soonest) = await session.jobs.tables.run(
            sql.JOB_DELIVER, self.source, topic, self.consumer_group, node, number, count, seconds
        )
        delivered = [
            Delivery(
                b"%d %b" % (row_id, (position or "").encode()),
                times,
                message if payload is None else decode_entry(payload),
            )
            for row_id, position, times, message, payload, *_ in rows
        ]
        return Deliveries(lost, _POLL_SECONDS if soonest is None else min(soonest, _POLL_SECONDS), delivered)

    async def release(self, session: JobSession, ids: list[bytes], *, undelivered: bool) -> None:
        arguments = list(map(_row_id, ids)), int(undelivered), wake_channel(self.source)
        await session.jobs.tables.run(sql.JOB_RELEASE, *arguments)

    def acknowledge(self, session: JobSession, work_id: bytes) -> asyncio.Future[None]:
        return session.jobs.acknowledge(work_id)


def _row_id(work_id: bytes) -> str:
    return work_id.partition(b" ")[0].decode()
