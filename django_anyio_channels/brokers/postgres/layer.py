"""PostgreSQL: topics by LISTEN and NOTIFY."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...core.capabilities import PresenceRecord, QueryGenerator, QueueLength
from ...core.events import Event, PublishResult
from ...core.exceptions import ListenerClosed, MissingDriver
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer
from ...core.options import check_options
from ..common.peers import PeerBarrier

try:
    import asyncpg  # noqa: F401 - so that the error names the extra
except ImportError as error:
    raise MissingDriver("PostgreSQLChannelLayer needs asyncpg: pip install django-anyio-channels[postgres]") from error

from . import transactions
from .address import Address, Credentials
from .doctor import diagnose
from .inspection import inspect_queues
from .options import OPTIONS
from .peers import PEER_TIMEOUT
from .queues import LeasedMessages, Message
from .session import Session

_OPTIONS = frozenset({"url", "listen_url", "probe_interval", "credentials"})


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
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        listen_url: str | None = None,
        probe_interval: float = 10.0,
        credentials: Credentials | None = None,
        **options: Any,
    ) -> None:
        given = {"listen_url": listen_url, "probe_interval": probe_interval, "credentials": credentials}
        check_options(given, OPTIONS)
        self._address = self._listen_address = Address(url, options, layer_options=_OPTIONS, credentials=credentials)
        if listen_url is not None:
            self._listen_address = Address(listen_url, {}, layer_options=_OPTIONS, credentials=credentials)
        self._probe_interval = probe_interval
        self._scope = ""
        self._leased: dict[bytes, LeasedMessages] = {}
        self._barrier = PeerBarrier(PEER_TIMEOUT)
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

    async def connect(self) -> None:
        await self.disconnect()
        session = self._session = Session(
            self._address,
            self._listen_address,
            probe_interval=self._probe_interval,
            scope=self._scope,
            barrier=self._barrier,
            leased=self._leased,
        )
        try:
            await session.open()
        except BaseException:
            if self._session is session:
                self._session = None
            raise

    async def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close(ListenerClosed(f"{self.address} was disconnected"))

    async def subscribe(self, groups: str) -> None:
        await self._require_session().subscribe(groups)

    async def unsubscribe(self, groups: str) -> None:
        await self._require_session().subscriptions.unsubscribe(groups)

    async def publish(self, group: str, message: bytes) -> PublishResult:
        return await self._require_session().publish(group, message)

    async def publish_once(self, group: str, message: bytes, *, key: str, seconds: float) -> PublishResult:
        return await self._require_session().publish_once(group, message, key, seconds)

    async def put_once(
        self, queue: str, message: bytes, *, capacity: int, expiry: float, key: str, seconds: float
    ) -> None:
        await self._require_session().keys.put(Message(queue.encode(), message, capacity, expiry), key, seconds)

    async def count_subscribers(self, group: str) -> int:
        """Return how many nodes subscribe to a topic that each of them subscribed to among its first."""
        return await self._require_session().count_subscribers(group)

    async def next_published(self) -> Event[bytes]:
        if self._session is None:
            raise self._not_connected()
        return await self._session.events.next()

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        self._require_session().events.set_event_handler(handler)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._require_session().queues.put(Message(queue.encode(), message, capacity, expiry))

    async def take(self, queue: str) -> bytes:
        return await self._require_session().queues.take(queue.encode())

    async def queue_length(self, queue: str) -> QueueLength:
        return QueueLength(await self._require_session().queues.length(queue.encode()), 0)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._require_session().queues.bind(group.encode(), queue.encode(), capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._require_session().queues.unbind(group.encode(), queue.encode())

    async def purge(self, prefix: str) -> None:
        session = self._require_session()
        await session.queues.purge(prefix.encode())
        await session.keys.purge(prefix.encode())

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        await self._require_session().presence.put(records, ttl)

    async def read_presence(self, name: str) -> dict[str, bytes]:
        return await self._require_session().presence.read(name.encode())

    @property
    def queues_are_at_nodes(self) -> bool:
        """See `SupportsInspection`."""
        return False

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        return await inspect_queues(self._require_session(), prefix, limit)

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        return await diagnose(self._require_session())

    def publish_in_transaction(self, group: str, message: bytes, *, encoding: str) -> QueryGenerator[PublishResult]:
        return transactions.publish(group, message, encoding=encoding)

    def put_in_transaction(
        self, queue: str, message: bytes, *, capacity: int, expiry: float
    ) -> QueryGenerator[bool | None]:
        return transactions.put(queue.encode(), message, capacity=capacity, expiry=expiry)

    def count_subscribers_in_transaction(self, group: str) -> QueryGenerator[int]:
        return transactions.count_subscribers(group)

    def _require_session(self) -> Session:
        if self._session is None:
            raise self._not_connected()
        self._session.raise_if_closed()
        return self._session

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address} is not connected; use the layer through a Channel, or connect() it")
