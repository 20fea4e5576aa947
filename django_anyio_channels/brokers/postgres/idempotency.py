"""Idempotency keys in a table: a key is claimed by the statement that sends."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import asyncpg

from ...core.exceptions import ChannelLayerError, PublishRefused
from . import statements as sql
from .access import TableAccess, maintain
from .connection import Connection
from .payloads import wake_channel
from .queues import Message
from .tables import HISTORY_KEYS, JOB_KEYS, KEYS, QUEUE_KEYS

_SWEEP_INTERVAL = 60.0


def digest(key: str) -> bytes:
    """Return what stands in the table for a key, which may have any length."""
    return blake2b(key.encode(), digest_size=16).digest()


class IdempotencyKeys:
    """The table of one session, created when the first key is used."""

    def __init__(self, connection: Connection) -> None:
        self._keys = TableAccess(connection, KEYS)
        self._queues = TableAccess(connection, QUEUE_KEYS)
        self._histories = TableAccess(connection, HISTORY_KEYS)
        self._jobs = TableAccess(connection, JOB_KEYS)

    async def publish(self, topic: str, channels: list[str], payloads: list[str], key: str, seconds: float) -> None:
        """Notify, unless the topic has had the key."""
        arguments = channels, payloads, topic.encode(), digest(key), seconds
        await self._keys.run(sql.PUBLISH_ONCE, *arguments, refused=PublishRefused)

    async def keep(
        self, topic: str, channel: str, payload: str, limits: Sequence[int], key: str, seconds: float
    ) -> str | None:
        """Publish to a topic with a history, unless it has had the key; return the position that the first call got."""
        arguments = topic.encode(), channel, payload, *limits, digest(key), seconds
        ((position,),) = await self._histories.run(sql.HISTORY_PUBLISH_ONCE, *arguments, refused=PublishRefused)
        return None if position is None else str(position)

    async def put(self, message: Message, key: str, seconds: float, *, acknowledged: bool) -> None:
        """Append to a queue, unless the queue has had the key. Raises `QueueFull`."""
        contents = sql.text_array([message.message]), sql.text_array([message.expiry])
        arguments = message.queue, *contents, message.capacity, wake_channel(message.queue), digest(key), seconds
        tables, statement = (self._jobs, sql.JOB_PUT_ONCE) if acknowledged else (self._queues, sql.PUT_ONCE)
        try:
            await tables.run(statement, *arguments)
        except ChannelLayerError as error:
            if isinstance(error.__cause__, asyncpg.DivisionByZeroError):
                raise message.queue_full() from None
            raise

    async def purge(self, prefix: bytes) -> None:
        """Forget the keys of topics and queues whose names begin with a prefix, if there are any."""
        if await self._keys.exist():
            await self._keys.run(sql.KEYS_PURGE, prefix)

    async def maintain(self) -> None:
        """Delete keys whose time is over, until the session is over."""
        await maintain(_SWEEP_INTERVAL, self.sweep, "Old idempotency keys cannot be deleted")

    async def sweep(self) -> None:
        """Delete keys whose time is over, if keys are used here."""
        for tables in (self._keys, self._queues, self._histories, self._jobs):
            if tables.found is not None:
                await tables.run(sql.KEYS_SWEEP)
                return
