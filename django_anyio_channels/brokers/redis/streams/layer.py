"""The layer on Redis and Valkey with a history of each group in a stream: nothing is missed over an outage."""

from __future__ import annotations

from functools import partial
from typing import Any

from ....core.events import Event, PublishResult
from ....core.exceptions import ListenerClosed
from ....core.options import check_options
from ...common import entries
from ...common.batching import Batcher
from ...common.deliveries import DeliveryManager
from ...common.history import as_events, events_after
from ...common.history_sync import HistorySync
from ..layer import RedisPubSubChannelLayer, check_size, delivery_unknown
from ..options import OPTIONS
from ..session import Session
from . import consumer_groups
from .history import History, Published, SessionHistory
from .memory import ServerMemory
from .observer import HistoryObserver

_MAX_MESSAGES = 100
"""In one call: the server does nothing else meanwhile."""
_MAX_BYTES = 64 * 1024
"""In one call, unless it is one message."""


class RedisStreamsChannelLayer(RedisPubSubChannelLayer):
    """`RedisPubSubChannelLayer` whose groups have a history: what was published during an outage comes after it.

    ``url`` is ``redis+streams://host:port/database``, ``rediss+streams://`` for TLS, ``unix+streams:///path``,
    ``redis+streams+sentinel://host:26379,host:26379/mastername/database`` or
    ``redis+streams+cluster://host:7000,host:7001``; everything else is as there. Of each group the last
    ``history_length`` messages are kept, ``history_bytes`` in all, none longer than ``history_age`` seconds. A node
    that was away for more than that, or whose server has lost its memory, gets a `Gap` instead, and so does a pattern
    after every outage.

    In a cluster, a group's history moves with its slot, and a subscriber that had to follow gets what was published
    meanwhile. While the slot is half way between two masters, commands about its groups wait; after five seconds they
    are refused, but consumers wait on. Messages of its master's groups that a replica had not received when it took
    over are a `Gap` for those groups alone.

    `publish` returns the position of the message. The order of a group is the same for all.

    Subscriptions of a ``consumer_group`` share the events of a group: each goes to one of them, and one that is not
    acknowledged within ``redeliver_after`` seconds goes to another. After ``deliver_at_most`` deliveries it is a dead
    letter. The same holds for `receive_job`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        history_length: int = 1000,
        history_age: float = 3600.0,
        history_bytes: int = 64 * 1024 * 1024,
        consumer_group: str | None = None,
        redeliver_after: float = 60.0,
        deliver_at_most: int = 5,
        probe_interval: float = 10.0,
        **options: Any,
    ) -> None:
        check_options(locals(), OPTIONS)
        super().__init__(None if url is None else _without_streams(url), probe_interval=probe_interval, **options)
        self.consumer_group = consumer_group
        self.redeliver_after = redeliver_after
        self.deliver_at_most = deliver_at_most
        self._without_history: set[str] = set()
        self._history = History(history_length, history_age, history_bytes)
        self._memory = ServerMemory()
        self._deliveries = DeliveryManager[Session](redeliver_after)
        self._sync = HistorySync()
        self._publisher: Batcher[tuple[bytes, bytes], Published]
        self._observer = HistoryObserver(self._sync, self._on_end)

    @property
    def retention(self) -> float:
        return self._history.retention

    async def connect(self) -> None:
        await super().connect()
        session = self.require_session()
        flush = partial(self._history.publish, session, session.subscriptions.wire_name(b""))
        self._publisher = Batcher(flush, max_items=_MAX_MESSAGES, max_bytes=_MAX_BYTES, pipelined=True)
        self._sync.start(SessionHistory(self._history, session, self._memory))
        self._deliveries.start(session)

    async def disconnect(self) -> None:
        error = ListenerClosed(f"{self.address} was disconnected")
        if self.is_connected:
            self._sync.reset()
            await self._deliveries.close_gracefully(self.require_session(), error)
        else:
            self._deliveries.end(error)
        await super().disconnect()

    def _on_end(self, error: ListenerClosed) -> None:
        # A session that ended before this one may report it late.
        if not self.is_connected:
            self._deliveries.end(error)

    async def subscribe(self, groups: str) -> None:
        session = self.require_session()
        if groups in self._without_history:
            await session.subscriptions.subscribe(groups)
            return
        self._sync.add(groups)
        await session.subscriptions.subscribe(groups)
        await self._sync.catch_up(groups)

    async def unsubscribe(self, groups: str) -> None:
        self._sync.discard(groups)
        await super().unsubscribe(groups)

    async def subscribe_pattern(self, pattern: str) -> None:
        await super().subscribe_pattern(pattern)
        self._sync.add_pattern(pattern)

    async def unsubscribe_pattern(self, pattern: str) -> None:
        self._sync.discard_pattern(pattern)
        await super().unsubscribe_pattern(pattern)

    async def publish(self, group: str, message: bytes) -> PublishResult:
        if group in self._without_history:
            return await super().publish(group, message)
        session, name = self.require_session(), group.encode()
        check_size(message)
        try:
            receivers, position, bindings = await self._publisher.call((name, message), name, len(message))
        except ListenerClosed as error:
            raise delivery_unknown(error) from error
        queues = await self.bound_queues(session, name, bindings) if bindings else ()
        return PublishResult(receivers, position.decode(), queues)

    async def purge(self, prefix: str) -> None:
        await super().purge(prefix)
        session, start = self.require_session(), prefix.encode()
        for key in await session.keys(start, "stream"):
            await session.execute(key, "DEL", key)
        for key in await session.keys(start, "zset"):
            await session.execute(key, "DEL", key, consumer_groups.contents_key(key))

    def subscriptions_restored(self) -> bool:
        self._sync.subscriptions_restored()
        return True

    def disable_history(self, group: str) -> None:
        self._without_history.add(group)

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        session, name = self.require_session(), group.encode()
        if since is not None:
            return await events_after(group, since, limit, partial(self._history.page, session, name))
        return as_events(group, await self._history.latest(session, name, limit))

    async def position(self, group: str) -> str:
        return (await self._history.position(self.require_session(), group.encode())).decode()

    def is_after(self, position: str, other: str) -> bool:
        return entries.is_after(position.encode(), other.encode())

    async def join(self, group: str, consumer_group: str) -> None:
        await consumer_groups.join(self.require_session(), self._history, group.encode(), consumer_group)

    async def receive_event(self, group: str, consumer_group: str) -> Event[bytes]:
        self.require_session()
        source = consumer_groups.group_source(self._history, group.encode(), consumer_group)
        return await self._deliveries.receive(source)

    def notify_published(self, group: str) -> None:
        self._deliveries.notify_published(group)

    async def receive_job(self, queue: str) -> Event[bytes]:
        self.require_session()
        return await self._deliveries.receive(consumer_groups.queue_source(queue.encode()))


def _without_streams(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    kinds = scheme.lower().split("+")
    if "streams" in kinds[1:]:
        kinds.remove("streams")
    return f"{'+'.join(kinds)}{separator}{rest}"
