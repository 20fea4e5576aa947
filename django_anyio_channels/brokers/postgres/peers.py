"""How many nodes listen; and patience with those that an outage has cut off too.

PostgreSQL tells nobody who listens to what. So each node holds a shared advisory lock in its listening session, and
whoever wants to know counts those who hold it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from hashlib import blake2b

import anyio

from ...core.exceptions import ListenerClosed
from .connection import Wire

NODES = "dac#nodes"
"""The NOTIFY channel on which a node says that it listens, and the name of the lock that all nodes hold."""

MOST_COUNTED = 16
"""A lock takes room in the server's shared memory, so only a node's first topics have one: those of its own."""

COUNT = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND (classid::bigint << 32 | objid::bigint) = $1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_PATIENCE_SECONDS = 1.0
"""As long as nodes wait at most between two attempts to connect (`Backoff.longest`)."""


def lock_of(channel: str) -> int:
    """The key of the advisory lock that stands for a channel."""
    return int.from_bytes(blake2b(channel.encode(), digest_size=8).digest(), "big", signed=True)


class Census:
    """Knows, over the lives of a layer, how many nodes there were.

    After a restart of the server all nodes connect again, one a moment before the other. Without `all_are_back`, what
    the first one publishes in that moment would be lost for the others.
    """

    def __init__(self) -> None:
        self._known = 0
        self._wanted = 0
        self._wire: Wire
        self._came: asyncio.Event
        self._counted: asyncio.Event

    def begin(self, wire: Wire) -> None:
        """A life begins. It expects the nodes that there were in the last one."""
        self._wire = wire
        self._wanted, self._known = max(self._known, self._wanted), 0
        self._came, self._counted = asyncio.Event(), asyncio.Event()
        self._came.set()

    def somebody_came(self) -> None:
        """A node says that it listens."""
        self._came.set()

    async def run(self) -> None:
        """Keep the number up to date, until the life is over."""
        with suppress(ListenerClosed):
            while True:
                await self._came.wait()
                self._came.clear()
                ((self._known,),) = await self._wire.fetch(COUNT, lock_of(NODES))
                self._counted.set()

    async def all_are_back(self) -> None:
        """Wait until as many nodes listen as in the last life, for a second at most. Only the first call waits."""
        if self._wanted:
            with anyio.move_on_after(_PATIENCE_SECONDS):
                while self._known < self._wanted:
                    self._counted.clear()
                    await self._counted.wait()
            self._wanted = 0
