"""PostgreSQL: topics by LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio

from ...core.capabilities import QueryGenerator
from ...core.events import BoundQueue, Event, PublishResult
from ...core.exceptions import DecodeError, ListenerClosed, MissingDriver, QueueFull
from ...core.layer import BaseChannelLayer
from ...core.stats import RateLimitedLogger
from ..common.batching import Batcher
from ..common.event_stream import EventStream

try:
    import asyncpg
except ImportError as error:
    raise MissingDriver("PostgreSQLChannelLayer needs asyncpg: pip install django-anyio-channels[postgres]") from error

from .address import Address
from .connection import Wire
from .payloads import Joiner, channel_name, has_unicode, split
from .peers import COUNT, MOST_COUNTED, NODES, Census, lock_of
from .queues import Message, Queues, Taken
from .statements import PUBLISH, PUBLISH_TO_BOUND, texts
from .transactions import count_subscribers, publish, put, queues

_BYTES_AT_ONCE = 512 * 1024
_SECONDS_FOR_A_POOLER = 0.2
_LAST_SECONDS = 2.0
_LAST_WORDS = 0.2
"""Seconds for what may still come over one connection when the other one has broken."""


class PostgreSQLChannelLayer(BaseChannelLayer):
    """PostgreSQL 14 or newer, by ``LISTEN`` and ``NOTIFY``; two connections however many groups, nothing to migrate.

    ``url`` is ``postgresql://user:password@host:5432/database?sslmode=...``; instead of it, or besides to override it,
    come asyncpg's own arguments: ``host`` ``port`` ``user`` ``password`` ``database`` ``ssl`` ``server_settings``
    ``target_session_attrs`` ``passfile`` ``timeout`` (seconds to connect, default 5), ...

    One of the two connections listens all the time, which a pooler in transaction mode (PgBouncer, RDS Proxy) cannot
    carry: then give the direct address as ``listen_url``, and the rest goes through ``url``.

    A link that is silent for ``probe_interval`` seconds is given up. `publish` returns when the server has committed
    the message; messages of more than some 4000 bytes travel in parts, up to 64 MB and more. There are no patterns.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        listen_url: str | None = None,
        probe_interval: float = 10.0,
        **options: Any,
    ) -> None:
        own = frozenset({"url", "listen_url", "probe_interval"})
        self._address = Address(url, options, own=own)
        self._listen_address = self._address if listen_url is None else Address(listen_url, {}, own=own)
        self._probe_interval = probe_interval
        self._kept: dict[bytes, list[Taken]] = {}
        self._census = Census()
        self._life: _Life | None = None

    @property
    def address(self) -> str:
        return str(self._address)

    @property
    def processes(self) -> dict[str, int]:
        """The server's process ids of the connections, ``listening`` and ``publishing``, as in ``pg_stat_activity``."""
        return dict(self._alive().processes)

    async def connect(self) -> None:
        await self.disconnect()
        life = self._life = _Life(self._address, self._listen_address, self._probe_interval, self._kept, self._census)
        try:
            await life.open()
        except BaseException:
            if self._life is life:
                self._life = None
            raise

    async def disconnect(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            await life.close(ListenerClosed(f"{self.address} was disconnected"))

    async def subscribe(self, groups: str) -> None:
        await self._alive().listen(groups)

    async def unsubscribe(self, groups: str) -> None:
        await self._alive().unlisten(groups)

    @property
    def returns_bound_queues(self) -> bool:
        return True

    async def publish(self, group: str, message: bytes) -> PublishResult:
        return PublishResult(bound_queues=await self._alive().publish(group, message))

    async def count_subscribers(self, group: str) -> int:
        """How many nodes listen to a topic that each of them subscribed to among its first."""
        return await self._alive().count_subscribers(group)

    async def next_published(self) -> Event[bytes]:
        if self._life is None:
            raise self._not_connected()
        return await self._life.arrivals.next()

    def set_event_handler(self, deliver: Callable[[Event[bytes]], None]) -> None:
        self._alive().arrivals.set_event_handler(deliver)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._alive().puts.call(Message(queue.encode(), message, capacity, expiry))

    async def take(self, queue: str) -> bytes:
        return await self._alive().queues.take(queue.encode())

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._alive().queues.bind(group.encode(), queue.encode(), capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._alive().queues.unbind(group.encode(), queue.encode())

    async def purge(self, prefix: str) -> None:
        await self._alive().queues.purge(prefix.encode())

    def publish_in_transaction(self, group: str, message: bytes, *, encoding: str) -> QueryGenerator[PublishResult]:
        return publish(group, message, encoding=encoding)

    def queues_in_transaction(self) -> QueryGenerator[bool]:
        return queues()

    def put_in_transaction(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> QueryGenerator[bool]:
        return put(queue.encode(), message, capacity=capacity, expiry=expiry)

    def count_subscribers_in_transaction(self, group: str) -> QueryGenerator[int]:
        return count_subscribers(group)

    def _alive(self) -> _Life:
        if self._life is None:
            raise self._not_connected()
        return self._life.alive()

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address} is not connected; use the layer through a Channel, or connect() it")


@dataclass(frozen=True, slots=True)
class _Publication:
    group: str
    message: bytes
    payloads: list[str]


class _Life:
    """From connect to disconnect, or to the loss of a connection."""

    def __init__(
        self,
        address: Address,
        listen_address: Address,
        probe_interval: float,
        kept: dict[bytes, list[Taken]],
        census: Census,
    ) -> None:
        self._address = address
        self._listen_address = listen_address
        self._probe_interval = probe_interval
        self._kept = kept
        self._census = census
        self._error: ListenerClosed | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wires: list[Wire] = []
        self.arrivals = EventStream()
        self._groups: dict[str, tuple[str, Joiner]] = {}
        self._listens: Batcher[str, None] = Batcher(self._fly_listens)
        self._publishes: Batcher[_Publication, Sequence[BoundQueue]] = Batcher(self._fly_publishes)
        self._may_be_bound = False
        self._taking: asyncio.Task[None] | None = None
        self.processes: dict[str, int] = {}
        self.queues: Queues
        self.puts: Batcher[Message, QueueFull | None]
        self._counted: set[str] = set()
        self._announcing: asyncio.Task[None] | None = None
        self._log = RateLimitedLogger()

    # ---- open and close -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. Raises `ListenerClosed`, also if `close` is called meanwhile."""
        self._opening = asyncio.ensure_future(self._open())
        try:
            await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            if self._error is None:  # it is the caller who is cancelled
                with anyio.CancelScope(shield=True):
                    await self.close(ListenerClosed(f"{self._address}: connecting was cancelled"))
                raise
            raise self._error from None

    async def _open(self) -> None:
        try:
            connections = await asyncio.gather(
                self._open_wire(self._listen_address, pooled=False),
                self._open_wire(self._address, pooled=self._listen_address is not self._address),
                return_exceptions=True,
            )
            for outcome in connections:
                if isinstance(outcome, BaseException):
                    raise outcome
            self._listening, self._publishing = (wire for wire in connections if isinstance(wire, Wire))
            await self._begin()
        except BaseException as error:
            self._end(error if isinstance(error, ListenerClosed) else ListenerClosed(f"{self._address}: {error!r}"))
            with anyio.CancelScope(shield=True):
                for wire in self._wires:
                    await wire.close(politely=False)
            raise

    async def _open_wire(self, address: Address, *, pooled: bool) -> Wire:
        connection = await address.open(cache_statements=not pooled and address is self._address)
        wire = Wire(connection, str(address), self._end, pooled=pooled)
        self._wires.append(wire)
        return wire

    async def _begin(self) -> None:
        """See that the server can do what is needed, and set the tasks going."""
        for name, wire, address in (
            ("listening", self._listening, self._listen_address),
            ("publishing", self._publishing, self._address),
        ):
            ((standby, self.processes[name]),) = await wire.fetch("SELECT pg_is_in_recovery(), pg_backend_pid()")
            if standby:
                raise ListenerClosed(
                    f"{address} is a stand-by, which can neither LISTEN nor NOTIFY. Give the address of the primary, "
                    f"or all of them and target_session_attrs=primary"
                )
        # A payload is converted to the encoding of the database.
        self._unicode = has_unicode(self._publishing.connection.get_settings().server_encoding)
        await self._publishing.begin()
        await self._hear_itself()
        await self._listening.execute(f"LISTEN {_quoted(NODES)}")
        self._census.begin(self._publishing)
        self.queues = Queues(
            str(self._address),
            self._publishing,
            self._kept,
            listen=lambda channels: self._listens.call("; ".join(f"LISTEN {_quoted(each)}" for each in channels)),
            unlisten=lambda channels: self._listens.call("; ".join(f"UNLISTEN {_quoted(each)}" for each in channels)),
        )
        self.puts = Batcher(self.queues.put)
        self._taking = asyncio.ensure_future(self.queues.run())
        self._taking.add_done_callback(self._ended)
        for work in (
            self._listens.run(),
            self._publishes.run(),
            self.puts.run(),
            self.queues.watch(),
            self._census.run(),
            *(wire.watch(self._probe_interval) for wire in self._wires),
        ):
            task = asyncio.ensure_future(work)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def _hear_itself(self) -> None:
        """Raise unless what one connection notifies is heard by the other; a pooler may not let it."""
        channel = f"dac#t{secrets.token_hex(12)}"
        heard: list[str] = []
        self._listening.connection.on_notification = lambda channel, payload: heard.append(channel)
        await self._listening.execute(f'LISTEN "{channel}"')
        await self._publishing.fetch("SELECT pg_notify($1, '')", channel)
        if self._listening.connection.get_server_pid() != self.processes["listening"]:
            # A pooler gives numbers of its own. In transaction mode it hands what comes now to nobody, but soon.
            await asyncio.sleep(_SECONDS_FOR_A_POOLER)
        # The answer comes after the notification, if that comes.
        await self._listening.execute(f'UNLISTEN "{channel}"')
        self._listening.connection.on_notification = self._notified
        if channel not in heard:
            raise ListenerClosed(
                f"{self._listen_address} does not hear what is notified through {self._address}. A pooler in "
                f"transaction mode (PgBouncer, RDS Proxy) cannot LISTEN: give the server's own address, or that of a "
                f"pooler in session mode, as listen_url. Both must lead to the same database"
            )

    def alive(self) -> _Life:
        """This life, if it is one. Raises `ListenerClosed`."""
        if self._error is not None:
            raise ListenerClosed(*self._error.args) from self._error
        if self._taking is None:
            raise ListenerClosed(f"{self._address} is not connected yet")
        return self

    async def close(self, error: ListenerClosed) -> None:
        """End everything that waits, and leave nothing open."""
        healthy = self._error is None
        self._end(error)
        if self._taking is None:
            assert self._opening is not None
            self._opening.cancel()
            await asyncio.wait([self._opening])
            return
        # What is just being taken from queues is not lost, but given back or kept for the next life.
        await asyncio.wait([self._taking], timeout=_LAST_SECONDS if healthy else _LAST_WORDS)
        if healthy:
            with anyio.move_on_after(_LAST_SECONDS):
                await self.queues.give_back()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for wire in self._wires:
            await wire.close(politely=healthy)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.write(logging.ERROR, "Unexpected error of the PostgreSQL layer, starting afresh: %r", error)
            self._end(ListenerClosed(f"{self._address}: {error!r}"))

    def _end(self, error: ListenerClosed) -> None:
        if self._error is None:
            self._error = error
            self._listens.close(error)
            self._publishes.close(error)
            if self._taking is not None:
                self.puts.close(error)
                self.queues.close(error)
            self.arrivals.end(error)

    # ---- listening ----------------------------------------------------------------------------------------------

    async def listen(self, group: str) -> None:
        channel = channel_name(group)
        statement = f"LISTEN {_quoted(channel)}"
        if channel not in self._groups:
            self._groups[channel] = (group, Joiner())
            if len(self._counted) < MOST_COUNTED:
                self._counted.add(channel)
                statement = f"{statement}; SELECT pg_advisory_lock_shared({lock_of(channel)})"
        await self._listens.call(statement)
        if self._announcing is None:
            self._announcing = asyncio.ensure_future(self._announce())
            self._announcing.add_done_callback(self._ended)
            self._tasks.append(self._announcing)

    async def _announce(self) -> None:
        """Be counted, once what the hub restores at the beginning is listened to."""
        with suppress(ListenerClosed):  # the life is over
            await self._listens.call(f"SELECT pg_advisory_lock_shared({lock_of(NODES)})")
            await self._publishing.fetch("SELECT pg_notify($1, '')", NODES)

    async def unlisten(self, group: str) -> None:
        channel = channel_name(group)
        statement = f"UNLISTEN {_quoted(channel)}"
        self._groups.pop(channel, None)
        if channel in self._counted:
            self._counted.discard(channel)
            statement = f"{statement}; SELECT pg_advisory_unlock_shared({lock_of(channel)})"
        await self._listens.call(statement)

    async def count_subscribers(self, group: str) -> int:
        """Count the nodes that hold the lock of a topic; PostgreSQL does not tell who listens."""
        ((count,),) = await self._publishing.fetch(COUNT, lock_of(channel_name(group)))
        return int(count)

    async def _fly_listens(self, statements: list[str]) -> Sequence[None]:
        await self._listening.execute("; ".join(statements))
        return [None] * len(statements)

    def _notified(self, channel: str, payload: str) -> None:
        self._listening.heard()
        known = self._groups.get(channel)
        if known is None:
            if channel == NODES:
                self._census.somebody_came()
            else:
                self.queues.woken(channel)
            return
        group, joiner = known
        try:
            message = joiner.add(payload)
        except DecodeError as error:
            self._log.write(logging.WARNING, "Dropped a notification on channel %s: %s", channel, error)
            return
        if message is not None:
            self.arrivals.add(Event(group, message))

    # ---- publishing ---------------------------------------------------------------------------------------------

    async def publish(self, group: str, message: bytes) -> Sequence[BoundQueue]:
        return await self._publishes.call(_Publication(group, message, split(message, unicode=self._unicode)))

    async def _fly_publishes(self, publications: list[_Publication]) -> Sequence[Sequence[BoundQueue]]:
        await self._census.all_are_back()
        found: list[Sequence[BoundQueue]] = []
        for some in _by_size(publications):
            bound = await self._notify(some)
            found.extend(bound.get(one.group.encode(), ()) for one in some)
        return found

    async def _notify(self, publications: list[_Publication]) -> dict[bytes, list[BoundQueue]]:
        """Publish in one transaction, and return the queues that are bound to the groups."""
        channels = [channel_name(one.group) for one in publications for _ in one.payloads]
        payloads = [payload for one in publications for payload in one.payloads]
        if not self._may_be_bound:
            ((_, self._may_be_bound),) = await self._publishing.fetch(PUBLISH, channels, payloads)
            if not self._may_be_bound:
                return {}
            channels, payloads = [], []  # they are sent
        groups = texts({one.group.encode() for one in publications})
        try:
            rows = await self._publishing.fetch(PUBLISH_TO_BOUND, channels, payloads, groups)
        except asyncpg.UndefinedTableError:  # somebody has dropped the tables
            self._may_be_bound = False
            return await self._notify(publications) if channels else {}
        bound: dict[bytes, list[BoundQueue]] = {}
        for topic, queue, capacity, expiry in rows:
            if topic is not None:
                bound.setdefault(topic, []).append(BoundQueue(queue.decode(), capacity, expiry))
        return bound


def _by_size(publications: list[_Publication]) -> Iterator[list[_Publication]]:
    """As many publications together as make one statement of a decent size; all parts of a message in one."""
    some: list[_Publication] = []
    size = 0
    for one in publications:
        some.append(one)
        size += sum(map(len, one.payloads))
        if size > _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _quoted(channel: str) -> str:
    return '"' + channel.replace('"', '""') + '"'
