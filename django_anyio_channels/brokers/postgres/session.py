"""One session: the connection that listens and the one that publishes, from connect to disconnect."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import asyncpg

from ...core.exceptions import ChannelLayerError, ListenerClosed
from ...core.stats import RateLimitedLogger
from ..common.batching import Batcher
from ..common.event_stream import EventStream
from ..common.history import HistoryPage
from ..common.peers import PeerBarrier
from .address import Address
from .connection import Connection
from .deliveries import Jobs
from .history import HistoryStore, Limits, Memory
from .idempotency import IdempotencyKeys
from .payloads import Receiver, channel_name, lock_key, wake_channel
from .peers import Peers
from .presence import Presence
from .publishing import Publisher
from .queues import LeasedMessages, Queues
from .statements import COUNT_SUBSCRIBERS, LISTEN_SETTINGS, PUBLISH, listen, unlisten
from .subscriptions import SharedLocks, Subscriptions

_POOLER_DELAY = 0.2
_CLOSE_TIMEOUT = 2.0
_POOLED = (
    "A pooler in transaction mode (PgBouncer, RDS Proxy) cannot LISTEN: give the server's own address, or that of a "
    "pooler in session mode, as listen_url. Both must lead to the same database"
)
_STATEMENTS_OF_OTHERS = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
"""Statements are prepared in the session of another client."""

_DRAIN_TIMEOUT = 0.2
"""Seconds for messages that are being taken over one connection when the other one has broken."""


class Session:
    """A session ends with `close`, or when either connection is lost."""

    def __init__(
        self,
        address: Address,
        listen_address: Address,
        *,
        probe_interval: float,
        scope: str,
        barrier: PeerBarrier,
        leased: dict[bytes, LeasedMessages],
        limits: Limits,
        memory: Memory,
        synchronous_commit: bool,
        on_end: Callable[[ListenerClosed], None],
    ) -> None:
        """``barrier``, ``leased`` and ``memory`` outlive the session; see `Peers`, `Queues` and `HistoryStore`."""
        pooled = listen_address is not address
        self._address = address
        self._on_end = on_end
        self._listening = Connection(listen_address, self.abort, self._on_notification, probe_interval=probe_interval)
        self._publishing = Connection(
            address, self.abort, probe_interval=probe_interval, pooled=pooled, synchronous_commit=synchronous_commit
        )
        self._cache_statements = not pooled
        self._open_connections: list[Connection] = []
        self._error: ListenerClosed | None = None
        self._opening: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._test_channel = wake_channel(secrets.token_bytes())  # of a queue that nobody else has
        self._notifications_arrive = False
        self._barrier = barrier
        self.histories = HistoryStore(self._publishing, limits, memory)
        self.keys = IdempotencyKeys(self._publishing)
        self.publisher = Publisher(self._publishing, barrier, self.histories, self.keys)
        self._log = RateLimitedLogger()
        self.events = EventStream()
        self._locks = SharedLocks(self._listening)
        self.subscriptions = Subscriptions(self._listening, self.events, self._locks)
        self.queues = Queues(self._publishing, self.subscriptions.scripts, leased)
        self.jobs = Jobs(self._publishing, self.subscriptions.scripts, limits)
        self.presence = Presence(self._publishing)
        self._batchers: Sequence[Batcher[Any, Any]]
        self._batchers = (
            self.subscriptions.scripts,
            self._locks.calls,
            self.publisher.calls,
            self.histories.pages,
            self.queues.puts,
            self.jobs.puts,
            self.jobs.acknowledgements,
            self.presence.puts,
        )
        self._peers = Peers(scope, barrier, self._publishing, self._locks)

    @property
    def processes(self) -> dict[str, int]:
        return {"listening": self._listening.process_id, "publishing": self._publishing.process_id}

    @property
    def connections(self) -> tuple[Connection, Connection]:
        """The one that listens, and the one that publishes."""
        return self._listening, self._publishing

    @property
    def is_open(self) -> bool:
        return self._error is None

    def raise_if_closed(self) -> None:
        """Raise `ListenerClosed` unless the session is open."""
        if self._error is not None:
            raise ListenerClosed(*self._error.args) from self._error
        if self._taking is None:
            raise ListenerClosed(f"{self._address} is not connected yet")

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
            connections = self._listening, self._publishing
            outcomes = await asyncio.gather(*map(self._open_connection, connections), return_exceptions=True)
            for error in outcomes:
                if error is not None:
                    raise error
            await self._start()
        except BaseException as error:
            closed = error if isinstance(error, ListenerClosed) else ListenerClosed(self._explain(error))
            self.abort(closed)
            with anyio.CancelScope(shield=True):
                await self._close_connections(gracefully=False)
            if isinstance(error, asyncpg.PostgresError):
                raise closed from error
            raise

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, _STATEMENTS_OF_OTHERS):
            return f"{self._address}: {error.args[0]}. {_POOLED}"
        return f"{self._address}: {error if isinstance(error, asyncpg.PostgresError) else repr(error)}"

    async def _open_connection(self, connection: Connection) -> None:
        await connection.open(cache_statements=self._cache_statements)
        self._open_connections.append(connection)

    async def _start(self) -> None:
        """Check that the server can do what is needed, and start the tasks."""
        await self._listening.check_server()
        await self._publishing.check_server()
        await self._publishing.prepare()
        await self._verify_notifications()
        await self._listening.fetch(LISTEN_SETTINGS)
        await self._listening.execute(listen(self._peers.channel))
        self._barrier.start()
        self._taking = self._create_task(self.queues.run())
        works = (
            *(batcher.run() for batcher in self._batchers),
            self.queues.maintain(),
            self.jobs.maintain(),
            self.keys.maintain(),
            self.presence.maintain(),
            self._peers.run(),
            self._locks.run(),
            *([self.histories.maintain()] if self.histories.limits.length else []),
        )
        self._tasks = list(map(self._create_task, works))
        for connection in self._open_connections:
            connection.watchdog.start()

    async def _verify_notifications(self) -> None:
        """Raise unless what one connection notifies reaches the other; a pooler may not let it."""
        await self._listening.execute(listen(self._test_channel))
        await self._publishing.fetch(PUBLISH, [self._test_channel], [""])
        if self._listening.is_behind_pooler:
            # In transaction mode it hands what comes now to nobody, but soon.
            await asyncio.sleep(_POOLER_DELAY)
        # The answer comes after the notification, if that comes. A pooler may hand it to the other connection.
        await self._listening.execute(unlisten(self._test_channel))
        if not self._notifications_arrive:
            raise ListenerClosed(
                f"{self._listening.address} does not receive what is notified through {self._address}. {_POOLED}"
            )

    def _create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.write(logging.ERROR, "Unexpected error in the PostgreSQL layer; reconnecting: %r", error)
            self.abort(ListenerClosed(f"{self._address}: {error!r}"))

    async def close(self, error: ListenerClosed) -> None:
        """Fail every call that waits, and leave nothing open."""
        healthy = self._error is None
        self.abort(error)
        if self._taking is None:
            assert self._opening is not None
            self._opening.cancel()
            await asyncio.wait([self._opening])
            return
        # What is just being taken from queues is not lost, but requeued or kept for the next session.
        await asyncio.wait([self._taking], timeout=_CLOSE_TIMEOUT if healthy else _DRAIN_TIMEOUT)
        if healthy:
            with anyio.move_on_after(_CLOSE_TIMEOUT):
                await self.queues.requeue_all()
        else:
            # asyncpg would have the server cancel the statement of a cancelled task, over one more connection.
            await self._close_connections(gracefully=False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close_connections(gracefully=healthy)

    async def _close_connections(self, *, gracefully: bool) -> None:
        for connection in self._open_connections:
            await connection.close(gracefully=gracefully)

    def abort(self, error: ListenerClosed) -> None:
        """End the session at once."""
        if self._error is None:
            self._error = error
            for batcher in self._batchers:
                batcher.close(error)
            self.queues.close(error)
            self.events.end(error)
            self._on_end(error)

    async def subscribe(self, group: str, receiver: Receiver | None = None) -> None:
        """See `Subscriptions.subscribe`."""
        await self.subscriptions.subscribe(group, receiver)
        if self._announcing is None:  # the hub has asked for all that it restores
            self._announcing = self._create_task(self._peers.announce())
            self._tasks.append(self._announcing)

    async def count_subscribers(self, group: str) -> int:
        """Return how many nodes count ``group`` among their first subscriptions."""
        try:
            ((count,),) = await self._publishing.fetch(COUNT_SUBSCRIBERS, lock_key(channel_name(group)))
        except asyncpg.PostgresError as error:
            raise ChannelLayerError(f"{self._address}: {error}") from error
        return int(count)

    async def read_page(self, group: str, reached: bytes) -> HistoryPage:
        """Read what follows a position in the history of a group."""
        return await self.histories.pages.call((group, reached))

    async def is_memory_lost(self) -> bool:
        """See `HistoryStore.is_memory_lost`."""
        return await self.histories.is_memory_lost()

    def _on_notification(self, channel: str, payload: str) -> None:
        if self.subscriptions.on_notification(channel, payload):
            return
        if channel == self._peers.channel:
            self._peers.peer_joined()
        elif channel == self._test_channel:
            self._notifications_arrive = True
        elif not (self.jobs.watching and self.jobs.on_notification(channel)):
            self.queues.on_notification(channel)
