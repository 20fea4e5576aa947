"""PostgreSQL: topics by LISTEN and NOTIFY."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...core.capabilities import QueryGenerator
from ...core.events import Event, PublishResult
from ...core.exceptions import ListenerClosed, MissingDriver, NotSupported
from ...core.layer import BaseChannelLayer
from ...core.options import check_options, option_names
from ..common import entries
from ..common.deliveries import DeliveryManager
from ..common.history import as_events, events_after
from ..common.history_sync import HistorySync
from ..common.peers import PeerBarrier

try:
    import asyncpg  # noqa: F401 - so that the error names the extra
except ImportError as error:
    raise MissingDriver("PostgreSQLChannelLayer needs asyncpg: pip install django-anyio-channels[postgres]") from error

from . import transactions
from .address import Address, Credentials
from .deliveries import PostgreSQLWork
from .history import Limits, LiveEntries, Memory
from .options import OPTIONS
from .peers import PEER_TIMEOUT
from .queues import LeasedMessages, Message
from .session import Session


class PostgreSQLChannelLayer(BaseChannelLayer):
    """PostgreSQL 14 or newer, by ``LISTEN`` and ``NOTIFY``; two connections however many groups, nothing to migrate.

    ``url`` is ``postgresql://user:password@host:5432/database?sslmode=...``; instead of it, or besides to override it,
    come asyncpg's own arguments: ``host`` ``port`` ``user`` ``password`` ``database`` ``ssl`` ``server_settings``
    ``target_session_attrs`` ``passfile`` ``timeout`` (seconds to connect, default 5), ...

    One of the two connections listens all the time, which a pooler in transaction mode (PgBouncer, RDS Proxy) cannot
    carry: then give the direct address as ``listen_url``, and the rest goes through ``url``.

    ``credentials`` is an async callable that returns a user and a password; it is called for each new connection.

    A connection that is silent for ``probe_interval`` seconds is given up. `publish` returns when the server has
    committed the message; messages of more than some 4000 bytes travel in parts, up to 64 MB and more. There are no
    patterns.

    With a ``history_length`` the last messages of each group are kept in a table, so many at most, ``history_bytes`` in
    all, none longer than ``history_age`` seconds, in the order of the commits, and what was published during an outage
    comes after it. A crash of the server may take back what it has committed within the last 0.6 seconds, which is
    reported as a `Gap` where it is missed; with ``synchronous_commit`` it takes back nothing, and each publish waits
    for the server's disk.

    Subscriptions of a ``consumer_group``, which need a history, share the events of a group: each goes to one of them,
    and one that is not acknowledged within ``redeliver_after`` seconds goes to another. After ``deliver_at_most``
    deliveries it is a dead letter. The same holds for `receive_job`, with a history or without.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        listen_url: str | None = None,
        probe_interval: float = 10.0,
        credentials: Credentials | None = None,
        synchronous_commit: bool = False,
        history_length: int = 0,
        history_age: float = 3600.0,
        history_bytes: int = 64 * 1024 * 1024,
        consumer_group: str | None = None,
        redeliver_after: float = 60.0,
        deliver_at_most: int = 5,
        **options: Any,
    ) -> None:
        check_options(locals(), OPTIONS)
        known = frozenset(option_names(type(self)))
        self._address = self._listen_address = Address(url, options, layer_options=known, credentials=credentials)
        if listen_url is not None:
            self._listen_address = Address(listen_url, {}, layer_options=known, credentials=credentials)
        self._probe_interval = probe_interval
        self._synchronous_commit = synchronous_commit
        self._scope = ""
        self._leased: dict[bytes, LeasedMessages] = {}
        self._barrier = PeerBarrier(PEER_TIMEOUT)
        self._limits = Limits(history_length, history_bytes, round(history_age * 1_000_000))
        self._memory = Memory()
        self._sync = HistorySync()
        self._without_history: set[str] = set()
        self.consumer_group = consumer_group
        self.redeliver_after = redeliver_after
        self.deliver_at_most = deliver_at_most
        self._is_acknowledged: Callable[[str], bool] | None = None
        self._deliveries = DeliveryManager[Session](redeliver_after)
        self._session: Session | None = None

    @property
    def needs_asyncio(self) -> bool:
        return True

    @property
    def address(self) -> str:
        return str(self._address)

    @property
    def returns_bound_queues(self) -> bool:
        return True

    @property
    def processes(self) -> dict[str, int]:
        """The server's process ids of the connections, ``listening`` and ``publishing``, as in ``pg_stat_activity``."""
        return self._require_session().processes

    def set_scope(self, prefix: str) -> None:
        self._scope = prefix

    def set_acknowledged(self, is_acknowledged: Callable[[str], bool]) -> None:
        self._is_acknowledged = is_acknowledged

    async def connect(self) -> None:
        await self.disconnect()
        session = self._session = Session(
            self._address,
            self._listen_address,
            probe_interval=self._probe_interval,
            scope=self._scope,
            barrier=self._barrier,
            leased=self._leased,
            limits=self._limits,
            memory=self._memory,
            synchronous_commit=self._synchronous_commit,
            on_end=self._deliveries.end,
        )
        try:
            await session.open()
        except BaseException:
            if self._session is session:
                self._session = None
            raise
        self._sync.start(session)
        self._deliveries.start(session)

    async def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            error = ListenerClosed(f"{self.address} was disconnected")
            if session.is_open:
                self._sync.reset()
                await self._deliveries.close_gracefully(session, error)
            await session.close(error)

    async def subscribe(self, groups: str) -> None:
        session = self._require_session()
        if not self._has_history(groups):
            await session.subscribe(groups)
            return
        self._sync.add(groups)
        await session.subscribe(groups, LiveEntries(groups, self._sync))
        await self._sync.catch_up(groups)

    async def unsubscribe(self, groups: str) -> None:
        self._sync.discard(groups)
        await self._require_session().subscriptions.unsubscribe(groups)

    async def publish(self, group: str, message: bytes) -> PublishResult:
        publisher = self._require_session().publisher
        if self._limits.length and group not in self._without_history:
            return await publisher.keep(group, message)
        return await publisher.publish(group, message)

    async def count_subscribers(self, group: str) -> int:
        """Return how many nodes subscribe to a topic that each of them subscribed to among its first."""
        return await self._require_session().count_subscribers(group)

    async def next_published(self) -> Event[bytes]:
        if self._session is None:
            raise self._not_connected()
        return await self._session.events.next()

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        self._require_session().events.set_event_handler(handler)

    @property
    def retention(self) -> float:
        return self._limits.age_us / 1_000_000 if self._limits.length else 0.0

    def subscriptions_restored(self) -> bool:
        self._sync.subscriptions_restored()
        return self._limits.length > 0

    def disable_history(self, group: str) -> None:
        self._without_history.add(group)

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        session = self._require_histories()
        if since is not None:
            return await events_after(group, since, limit, partial(session.read_page, group))
        return as_events(group, await session.histories.latest(group, limit))

    async def position(self, group: str) -> str:
        return await self._require_histories().histories.position(group)

    def is_after(self, position: str, other: str) -> bool:
        return entries.is_after(position.encode(), other.encode())

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        session = self._require_session()
        acknowledged = self._is_acknowledged is not None and self._is_acknowledged(queue)
        queues = session.jobs if acknowledged else session.queues
        await queues.put(Message(queue.encode(), message, capacity, expiry))

    async def take(self, queue: str) -> bytes:
        return await self._require_session().queues.take(queue.encode())

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._require_session().queues.bind(group.encode(), queue.encode(), capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._require_session().queues.unbind(group.encode(), queue.encode())

    async def purge(self, prefix: str) -> None:
        session = self._require_session()
        await session.queues.purge(prefix.encode())
        if self._limits.length:
            await session.histories.purge(prefix.encode())
        await session.jobs.purge(prefix.encode(), create=self._is_acknowledged is not None)

    async def join(self, group: str, consumer_group: str) -> None:
        await self._require_histories().jobs.join(group.encode(), consumer_group.encode())

    async def receive_event(self, group: str, consumer_group: str) -> Event[bytes]:
        self._require_histories()
        return await self._deliveries.receive(PostgreSQLWork(group.encode(), consumer_group.encode()))

    def notify_published(self, group: str) -> None:
        self._deliveries.notify_published(group)

    async def receive_job(self, queue: str) -> Event[bytes]:
        self._require_session()
        return await self._deliveries.receive(PostgreSQLWork(queue.encode()))

    def publish_in_transaction(
        self, group: str, message: bytes, *, encoding: str
    ) -> QueryGenerator[PublishResult | None]:
        if self._limits.length:
            has_history = self._has_history(group)
            return transactions.keep(group, message, self._limits, has_history=has_history, encoding=encoding)
        return transactions.publish(group, message, encoding=encoding)

    def put_in_transaction(
        self, queue: str, message: bytes, *, capacity: int, expiry: float
    ) -> QueryGenerator[bool | None]:
        acknowledged = self._is_acknowledged is not None and self._is_acknowledged(queue)
        return transactions.put(queue.encode(), message, capacity=capacity, expiry=expiry, acknowledged=acknowledged)

    def count_subscribers_in_transaction(self, group: str) -> QueryGenerator[int]:
        return transactions.count_subscribers(group)

    def _has_history(self, group: str) -> bool:
        return self._limits.length > 0 and group not in self._without_history

    def _require_histories(self) -> Session:
        if not self._limits.length:
            raise self._no_history()
        return self._require_session()

    def _no_history(self) -> NotSupported:
        return NotSupported(
            f"{self.address} keeps no history unless history_length says how many messages of each group to keep"
        )

    def _require_session(self) -> Session:
        if self._session is None:
            raise self._not_connected()
        self._session.raise_if_closed()
        return self._session

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address} is not connected; use the layer through a Channel, or connect() it")
