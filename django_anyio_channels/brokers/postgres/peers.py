"""The nodes of one scope in one database: each announces itself by NOTIFY and holds a shared advisory lock.

After a restart of the server the first node back waits until the others listen again: see `PeerBarrier`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncpg

from ...core.exceptions import ListenerClosed
from ...core.stats import RateLimitedLogger
from ..common.peers import PeerBarrier
from .connection import Connection
from .payloads import lock_key, nodes_channel
from .statements import COUNT_SUBSCRIBERS, PUBLISH
from .subscriptions import SharedLocks

PEER_TIMEOUT = 1.5
"""Seconds after the beginning of a session; between two attempts to connect a node waits one (`Backoff.longest`)."""


class Peers:
    """Keeps a barrier up to date for one session."""

    def __init__(self, scope: str, barrier: PeerBarrier, connection: Connection, locks: SharedLocks) -> None:
        self.channel = nodes_channel(scope)
        """The NOTIFY channel of the announcements, which the session must listen to."""
        self._lock = lock_key(self.channel)
        self._barrier = barrier
        self._connection = connection
        self._locks = locks
        self._is_counted = False
        self._log = RateLimitedLogger()
        self._joined = asyncio.Event()
        self._joined.set()

    def peer_joined(self) -> None:
        """A node has announced itself."""
        self._joined.set()

    async def run(self) -> None:
        """Count the nodes whenever one has joined, until the session is over."""
        with suppress(ListenerClosed):
            while True:
                await self._joined.wait()
                self._joined.clear()
                try:
                    ((count,),) = await self._connection.fetch(COUNT_SUBSCRIBERS, self._lock)
                except asyncpg.PostgresError as error:  # no right to pg_locks
                    text = "%s: nodes cannot be counted, so this one does not wait for the others after an outage: %s"
                    self._log.write(logging.WARNING, text, self._connection.address, error)
                else:
                    self._barrier.update(count if self._is_counted else count + 1)

    async def announce(self) -> None:
        """Announce this node, once it listens to all that it subscribed to before."""
        self._is_counted = True
        with suppress(ListenerClosed):  # the session is over
            await self._locks.hold(self._lock)
            await self._connection.fetch(PUBLISH, [self.channel], [""])
