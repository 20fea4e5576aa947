"""Publish: concurrent calls share a transaction, whether their groups have a history or not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from ...core.events import PublishResult
from ...core.exceptions import PublishRefused
from ..common.batching import Batcher
from ..common.peers import PeerBarrier
from . import statements as sql
from .connection import Connection
from .history import HistoryStore
from .idempotency import IdempotencyKeys
from .payloads import channel_name, encode, encode_entry
from .tables import QUEUES
from .transactions import bound_queues

_MAX_BATCH_BYTES = 512 * 1024
_FIND_BINDINGS_INTERVAL = 5.0
_BINDINGS_LOST = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError)
"""The table of bindings was dropped, or taken from this role."""


Publication = tuple[str, str | None, list[str]]
"""The group of a message, the group as a parameter if the message is to be kept, and the payloads.

Without payloads it asks for the queues that are bound to the group."""


class Publisher:
    """Publishes over the connection of one session."""

    def __init__(
        self, connection: Connection, barrier: PeerBarrier, histories: HistoryStore, keys: IdempotencyKeys
    ) -> None:
        self._connection = connection
        self._barrier = barrier
        self._histories = histories
        self._keys = keys
        self._bindings_in = ""
        self._find_bindings_at = 0.0
        self.calls: Batcher[Publication, PublishResult] = Batcher(self._flush, max_bytes=_MAX_BATCH_BYTES)
        """The session runs and closes it."""

    async def publish(self, group: str, message: bytes) -> PublishResult:
        """Return when the server has committed the message, with the queues that are bound to the group."""
        payloads = encode(message, server_encoding=self._connection.server_encoding)
        return await self.calls.call((group, None, payloads), size=sum(map(len, payloads)))

    async def keep(self, group: str, message: bytes) -> PublishResult:
        """`publish` to a group with a history."""
        payload = encode_entry(message, server_encoding=self._connection.server_encoding)
        return await self.calls.call((group, sql.bytes_as_text(group.encode()), [payload]), size=len(payload))

    async def publish_once(self, group: str, message: bytes, key: str, seconds: float) -> PublishResult:
        """`publish`, unless the group has had the idempotency key."""
        payloads = encode(message, server_encoding=self._connection.server_encoding)
        await self._barrier.wait()
        await self._keys.publish(group, [channel_name(group)] * len(payloads), payloads, key, seconds)
        return await self.calls.call((group, None, []))

    async def keep_once(self, group: str, message: bytes, key: str, seconds: float) -> PublishResult:
        """`keep`, unless the group has had the idempotency key: then return the position of the first message."""
        payload = encode_entry(message, server_encoding=self._connection.server_encoding)
        await self._barrier.wait()
        limits = self._histories.limits
        position = await self._keys.keep(group, channel_name(group), payload, limits, key, seconds)
        found = await self.calls.call((group, None, []))
        return PublishResult(None, position, found.bound_queues)

    async def _flush(self, publications: list[Publication]) -> Sequence[PublishResult]:
        await self._barrier.wait()
        try:
            if self._histories.limits.length and any(topic for _, topic, _ in publications):
                return await self._keep(publications)
            return await self._notify(publications)
        except asyncpg.PostgresError as error:
            raise PublishRefused(f"{self._connection.address}: {error}") from error

    async def _notify(self, publications: list[Publication]) -> Sequence[PublishResult]:
        """Publish payloads to groups in one transaction; it asks for bound queues only where bindings may exist."""
        channels, payloads = _columns(publications)
        nothing_bound = [PublishResult()] * len(publications)
        try:
            if not self._bindings_in:
                ((_, may_be_bound),) = await self._connection.fetch(sql.PUBLISH, channels, payloads)
                if not may_be_bound or not await self._find_bindings():
                    return nothing_bound
                channels, payloads = [], []  # they are sent
            rows = await self._connection.fetch(
                sql.in_schema(sql.PUBLISH_TO_BOUND, self._bindings_in), channels, payloads, _topics(publications)
            )
        except _BINDINGS_LOST:
            self._bindings_in = ""
            return await self._notify(publications) if channels else nothing_bound
        bound = bound_queues(rows)
        return [PublishResult(bound_queues=bound.get(group, ())) for group, _, _ in publications]

    async def _keep(self, publications: list[Publication]) -> Sequence[PublishResult]:
        """Publish some payloads with a history, and some perhaps without, in one transaction and in their order."""
        if len(publications) == 1 and (result := await self._keep_one(publications[0])) is not None:
            return [result]
        topics = [topic for _, topic, payloads in publications for _ in payloads]
        rows = await self._histories.tables.run(
            sql.HISTORY_PUBLISH,
            topics,
            *_columns(publications),
            *self._histories.limits,
            _topics(publications),
            refused=PublishRefused,
        )
        bound = bound_queues(row[1:] for row in rows[len(topics) :])
        results, place = [], 0
        for group, _, payloads in publications:
            position = (rows[place][0] or None) if payloads else None
            results.append(PublishResult(None, position, bound.get(group, ())))
            place += len(payloads)
        return results

    async def _keep_one(self, publication: Publication) -> PublishResult | None:
        """Publish one payload with a history; return None, and do nothing, if its group has no position yet."""
        group, _, (payload,) = publication
        topic, tables, limits = group.encode(), self._histories.tables, self._histories.limits
        rows = await tables.run(sql.HISTORY_PUBLISH_ONE, topic, channel_name(group), payload, *limits)
        if not rows:
            return None
        (position, is_full, *_), *_ = rows
        if is_full:
            await tables.run(sql.HISTORY_PRUNE_ONE, topic)
        bound = bound_queues(row[2:] for row in rows)
        return PublishResult(None, position, bound.get(group, ()))

    async def _find_bindings(self) -> bool:
        """Find the table of bindings; where this role may not use it, not again within seconds."""
        now = asyncio.get_running_loop().time()
        if now >= self._find_bindings_at:
            tables = QUEUES.find((await self._connection.fetch(sql.FIND_TABLES, *QUEUES.names))[0])
            if tables.have_bindings():
                self._bindings_in = tables.schema
            else:
                self._find_bindings_at = now + _FIND_BINDINGS_INTERVAL
        return self._bindings_in != ""


def _columns(publications: list[Publication]) -> tuple[list[str], list[str]]:
    """Return the NOTIFY channel and the payload of each payload."""
    channels = [channel_name(group) for group, _, payloads in publications for _ in payloads]
    return channels, [payload for _, _, payloads in publications for payload in payloads]


def _topics(publications: list[Publication]) -> list[str]:
    return sql.text_array({group.encode() for group, _, _ in publications})
