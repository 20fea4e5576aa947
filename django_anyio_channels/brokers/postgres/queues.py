"""Queues in a table: many puts in one statement, and readers that share what they take."""

from __future__ import annotations

import asyncio
import logging
from bisect import insort
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from ...core.exceptions import ChannelLayerError, DeliveryUnknown, ListenerClosed, NotSupported, QueueFull
from ...core.stats import RateLimitedLogger
from .connection import Wire
from .payloads import wake_channel
from .statements import BIND, CREATE, EXIST, GIVE_BACK, PURGE, PUT, PUT_INTO_SEVERAL, SWEEP, TAKE, UNBIND, texts

_GRACE_SECONDS = 0.25
"""For so long a message that was taken for a reader who has gone waits for the next reader of this process."""

_LOOK_SECONDS = 5.0
"""How often to look without being woken: a reader that died in the moment of taking wakes nobody."""

_LOOKS_WITHOUT_READER = 2
_LOOKS_BETWEEN_SWEEPS = 6
_BYTES_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One message on its way into a queue."""

    queue: bytes
    message: bytes
    capacity: int
    expiry: float


@dataclass(frozen=True, slots=True, order=True)
class Taken:
    id: int
    message: bytes = field(compare=False)
    expires: datetime = field(compare=False)


class _Reading:
    """One queue that is or was just read here."""

    def __init__(self, taken: list[Taken]) -> None:
        self.readers: deque[asyncio.Future[Taken]] = deque()
        self.taken = taken
        """Taken for readers that have gone, oldest first. The list outlives this life."""
        self.may_have_more = True
        self.looks_without_reader = 0

    def add(self, taken: Taken) -> None:
        insort(self.taken, taken)

    def hand_out(self) -> None:
        while self.taken and self.readers:
            reader = self.readers.popleft()
            if not reader.done():
                reader.set_result(self.taken.pop(0))

    @property
    def hungry(self) -> bool:
        return bool(self.readers) and self.may_have_more


class Queues:
    """The queues of one life.

    ``kept`` holds over the lives of one layer what was taken and was neither handed out nor given back, by queue.
    ``listen`` and ``unlisten`` are told the channels that wake readers; `woken` must be called when one is notified.
    """

    def __init__(
        self,
        address: str,
        wire: Wire,
        kept: dict[bytes, list[Taken]],
        listen: Callable[[Sequence[str]], Awaitable[object]],
        unlisten: Callable[[Sequence[str]], Awaitable[object]],
    ) -> None:
        self._address = address
        self._wire = wire
        self._kept = kept
        self._listen = listen
        self._unlisten = unlisten
        self._made = False
        self._readings: dict[bytes, _Reading] = {}
        self._by_channel: dict[str, _Reading] = {}
        self._arrival = asyncio.Event()
        self._looking = False
        self._closed: ListenerClosed | None = None
        self._looks = 0
        self._giving: set[asyncio.Future[None]] = set()
        self._log = RateLimitedLogger()

    # ---- put ----------------------------------------------------------------------------------------------------

    async def put(self, messages: Sequence[Message]) -> list[QueueFull | None]:
        """Append; returns an error for each message that found its queue full."""
        outcome: list[QueueFull | None] = []
        for some in _alike(messages):
            room = await self._put_alike(some)
            for one in some:
                room[one.queue] -= 1
                outcome.append(None if room[one.queue] >= 0 else _full(one))
        return outcome

    async def _put_alike(self, messages: Sequence[Message]) -> dict[bytes, int]:
        """In one statement. Returns how many of each queue's first were accepted."""
        queues = [one.queue for one in messages]
        contents = texts(one.message for one in messages), texts(one.expiry for one in messages)
        if len(set(queues)) == 1:
            capacity, wake = messages[0].capacity, wake_channel(queues[0])
            ((accepted,),) = await self._run(PUT, queues[0], *contents, capacity, wake)
            return {queues[0]: accepted}
        capacities, wakes = texts(one.capacity for one in messages), list(map(wake_channel, queues))
        return dict(await self._run(PUT_INTO_SEVERAL, texts(queues), *contents, capacities, wakes))

    # ---- take ---------------------------------------------------------------------------------------------------

    async def take(self, queue: bytes) -> bytes:
        """Wait for the oldest message."""
        reading = self._reading(queue)
        reader: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        reading.readers.append(reader)
        reading.hand_out()
        self._arrival.set()
        try:
            return (await reader).message
        except asyncio.CancelledError:
            if reader.done() and not reader.cancelled() and reader.exception() is None:
                reading.add(reader.result())
                reading.hand_out()
                self._give_back_later(queue, reading)
            raise
        finally:
            if reader in reading.readers:
                reading.readers.remove(reader)

    def _reading(self, queue: bytes) -> _Reading:
        reading = self._readings.get(queue)
        if reading is None:
            reading = self._readings[queue] = _Reading(self._kept.setdefault(queue, []))
        return reading

    def woken(self, channel: str) -> None:
        """Somebody put something into a queue that is read here."""
        reading = self._by_channel.get(channel)
        if reading is not None:
            reading.may_have_more = True
            if reading.readers:
                self._arrival.set()

    async def run(self) -> None:
        """Take for those who wait, until `close`."""
        for queue in self._kept:
            self._give_back_later(queue, self._reading(queue))
        while self._closed is None:
            hungry = {queue: reading for queue, reading in self._readings.items() if reading.hungry}
            if hungry:
                try:
                    await self._take_for(hungry)
                except ListenerClosed:
                    return  # the life is over; `close` ends the readers
                except ChannelLayerError as error:
                    for reading in hungry.values():
                        _fail(reading, error)
            else:
                self._arrival.clear()
                await self._arrival.wait()

    async def look_and_sweep(self) -> None:
        """Every few seconds look for what nobody was woken for, and remove what is too old, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            unused = []
            for queue, reading in self._readings.items():
                reading.may_have_more = True
                in_use = reading.readers or reading.taken
                reading.looks_without_reader = 0 if in_use else reading.looks_without_reader + 1
                if reading.looks_without_reader > _LOOKS_WITHOUT_READER:
                    unused.append(queue)
            self._arrival.set()
            for queue in unused:
                del self._readings[queue], self._kept[queue]
            channels = [channel for queue in unused if self._by_channel.pop(channel := wake_channel(queue), None)]
            if channels:
                await self._unlisten(channels)
            self._looks += 1
            if self._made and self._looks % _LOOKS_BETWEEN_SWEEPS == 0:
                await self._run(SWEEP)

    async def watch(self) -> None:
        """`look_and_sweep` over errors of the database, until the life is over."""
        while True:
            try:
                await self.look_and_sweep()
            except ListenerClosed:
                return
            except ChannelLayerError as error:
                self._log.write(logging.ERROR, "The queues cannot be tidied: %s", error)

    async def _take_for(self, hungry: dict[bytes, _Reading]) -> None:
        strange = [queue for queue in hungry if wake_channel(queue) not in self._by_channel]
        if strange:
            await self._make()
            self._by_channel.update({wake_channel(queue): hungry[queue] for queue in strange})
            await self._listen([wake_channel(queue) for queue in strange])
        wanted = {queue: len(reading.readers) for queue, reading in hungry.items() if reading.readers}
        for queue in wanted:
            hungry[queue].may_have_more = False  # from now on a wake-up may come
        if not wanted:
            return
        for queue, id_, message, expires in await self._run(TAKE, texts(wanted), texts(wanted.values())):
            hungry[queue].add(Taken(id_, message, expires))
            wanted[queue] -= 1
        for queue, missing in wanted.items():
            reading = hungry[queue]
            if missing == 0:
                reading.may_have_more = True
            reading.hand_out()
            self._give_back_later(queue, reading)

    # ---- give back ----------------------------------------------------------------------------------------------

    def _give_back_later(self, queue: bytes, reading: _Reading) -> None:
        if reading.taken and self._closed is None:
            loop = asyncio.get_running_loop()
            loop.call_later(_GRACE_SECONDS, self._give_back_soon, queue, reading, reading.taken[0])

    def _give_back_soon(self, queue: bytes, reading: _Reading, oldest: Taken) -> None:
        if oldest in reading.taken and self._closed is None:
            giving = asyncio.ensure_future(self._give_back({queue: reading}))
            self._giving.add(giving)
            giving.add_done_callback(self._giving.discard)

    async def _give_back(self, readings: Mapping[bytes, _Reading]) -> None:
        rows = [(queue, taken) for queue, reading in readings.items() for taken in reading.taken]
        if not rows:
            return
        for reading in readings.values():
            reading.taken.clear()
        try:
            await self._run(
                GIVE_BACK,
                texts(queue for queue, _ in rows),
                texts(taken.id for _, taken in rows),
                texts(taken.message for _, taken in rows),
                texts(taken.expires for _, taken in rows),
                sorted({wake_channel(queue) for queue, _ in rows}),
            )
        except DeliveryUnknown as error:
            # Once at most: they may be back in their queues already, and be taken by others.
            self._log.write(logging.ERROR, "%d messages that lost their readers may be lost: %s", len(rows), error)
        except ChannelLayerError:
            for queue, taken in rows:
                readings[queue].add(taken)

    # ---- bindings -----------------------------------------------------------------------------------------------

    async def bind(self, topic: bytes, queue: bytes, capacity: int, expiry: float, lifetime: float) -> None:
        await self._run(BIND, topic, queue, capacity, expiry, lifetime)

    async def unbind(self, topic: bytes, queue: bytes) -> None:
        await self._run(UNBIND, topic, queue)

    async def purge(self, prefix: bytes) -> None:
        for queue, taken in self._kept.items():
            if queue.startswith(prefix):
                taken.clear()
        await self._run(PURGE, prefix)

    # ---- the table ----------------------------------------------------------------------------------------------

    async def _run(self, statement: str, *parameters: object, again: bool = True) -> list[Any]:
        """Run a statement, on tables that are made when they aren't there."""
        await self._make()
        try:
            return await self._wire.fetch(statement, *parameters)
        except asyncpg.InsufficientPrivilegeError as error:
            raise NotSupported(
                f"{self._address}: {error}. Normal channels need all rights on django_anyio_channels_queue and "
                f"django_anyio_channels_binding: GRANT them to the layer's user"
            ) from error
        except asyncpg.PostgresError as error:
            if again and isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError)):
                self._made = False
                return await self._run(statement, *parameters, again=False)
            raise ChannelLayerError(f"{self._address}: {error}") from error

    async def _make(self) -> None:
        if self._made:
            return
        ((exists,),) = await self._wire.fetch(EXIST)
        if not exists:
            try:
                await self._wire.execute(CREATE)
            except asyncpg.InsufficientPrivilegeError as error:
                raise NotSupported(
                    f"{self._address}: {error}. Normal channels need two tables and a function, which the layer's user "
                    f"may not create. Let somebody who may run this, and GRANT the user all rights on them:\n{CREATE}"
                ) from error
        self._made = True

    # ---- the end ------------------------------------------------------------------------------------------------

    def close(self, error: ListenerClosed) -> None:
        """End every reader that waits."""
        self._closed = error
        for reading in self._readings.values():
            _fail(reading, error)
        self._arrival.set()

    async def give_back(self) -> None:
        """After `close`: what was taken for readers that have gone goes back, or is kept for the next life."""
        await self._give_back(self._readings)


def _fail(reading: _Reading, error: ChannelLayerError) -> None:
    while reading.readers:
        reader = reading.readers.popleft()
        if not reader.done():
            reader.set_exception(type(error)(*error.args))


def _full(message: Message) -> QueueFull:
    return QueueFull(f"Queue {message.queue.decode()} is full: its capacity of {message.capacity} messages is used up")


def _alike(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """As many together as make one statement of a decent size, in which a queue has one capacity."""
    some: list[Message] = []
    capacities: dict[bytes, int] = {}
    size = 0
    for one in messages:
        if some and (size > _BYTES_AT_ONCE or capacities.get(one.queue, one.capacity) != one.capacity):
            yield some
            some, capacities, size = [], {}, 0
        some.append(one)
        capacities[one.queue] = one.capacity
        size += len(one.message)
    yield some
