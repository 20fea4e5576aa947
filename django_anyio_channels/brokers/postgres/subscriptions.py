"""The groups that one session subscribes to: LISTEN, and notifications as events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress

import asyncpg

from ...core.events import Event
from ...core.exceptions import DecodeError, ListenerClosed, SubscriptionRefused
from ...core.stats import RateLimitedLogger
from ..common.batching import Batcher
from ..common.event_stream import EventStream
from .connection import Connection
from .payloads import PayloadAssembler, Receiver, channel_name, lock_key
from .statements import TRY_LOCKS_SHARED, listen, text_array, unlisten, unlock_shared

MAX_COUNTED = 16
"""How many groups of a node are counted by `Session.count_subscribers`: its first, which are its own topics.

PostgreSQL tells nobody who listens to what. So a node holds a shared advisory lock for each group that is counted. A
lock takes room in the server's shared memory.
"""

_LOCK_AGAIN_INTERVAL = 5.0
"""Seconds between attempts to hold a lock that another session holds exclusively."""


class SharedLocks:
    """The shared advisory locks by which nodes count each other. Concurrent calls share a round trip.

    Any role may hold such a lock exclusively, for ever. So nothing waits for one, or for the right to it: it is tried
    again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wanted: set[int] = set()
        self._missing: set[int] = set()
        self._log = RateLimitedLogger()
        self.calls: Batcher[int, None] = Batcher(self._try)
        """The session runs and closes it."""

    async def hold(self, key: int) -> None:
        """Hold a lock from now on, or as soon as that can be."""
        self._wanted.add(key)
        await self.calls.call(key)

    def forget(self, key: int) -> None:
        """Do not try again; the caller unlocks."""
        self._wanted.discard(key)
        self._missing.discard(key)

    async def run(self) -> None:
        """Try again for the locks that are missing, until the session is over."""
        with suppress(ListenerClosed):
            while True:
                await asyncio.sleep(_LOCK_AGAIN_INTERVAL)
                if self._missing:
                    await self._try(self._missing)

    async def _try(self, keys: Collection[int]) -> Sequence[None]:
        why = "a session holds it exclusively. End it; pg_locks has its pid"
        try:
            refused = {key for (key,) in await self._connection.fetch(TRY_LOCKS_SHARED, text_array(keys))}
        except asyncpg.PostgresError as error:  # no right to the function, or no room for locks
            refused, why = set(keys), str(error)
        self._missing = self._missing.difference(keys).union(refused) & self._wanted
        for key in self._missing:
            text = "%s: this session cannot share advisory lock %d, so other nodes do not count this one: %s"
            self._log.write(logging.ERROR, text, self._connection.address, key, why)
        return [None] * len(keys)


class Subscriptions:
    """What one connection listens to. Concurrent calls share a round trip."""

    def __init__(self, connection: Connection, events: EventStream, locks: SharedLocks) -> None:
        self._connection = connection
        self._events = events
        self._locks = locks
        self._groups: dict[str, tuple[str, Receiver]] = {}
        self._counted: set[str] = set()
        self.scripts: Batcher[str, None] = Batcher(self._execute)
        """Runs scripts on the connection, in the order of the calls."""
        self._log = RateLimitedLogger()

    async def subscribe(self, group: str, receiver: Receiver | None = None) -> None:
        """Have the events of ``group`` added to the stream from now on, or else its payloads to ``receiver``."""
        channel = channel_name(group)
        is_counted = False
        if channel not in self._groups:
            self._groups[channel] = group, receiver or PayloadAssembler()
            if len(self._counted) < MAX_COUNTED:
                is_counted = True
                self._counted.add(channel)
        await self.scripts.call(listen(channel))
        if is_counted:
            await self._locks.hold(lock_key(channel))

    async def unsubscribe(self, group: str) -> None:
        """Undo `subscribe`."""
        channel = channel_name(group)
        script = unlisten(channel)
        self._groups.pop(channel, None)
        if channel in self._counted:
            self._counted.discard(channel)
            self._locks.forget(lock_key(channel))
            script = f"{script}; {unlock_shared(lock_key(channel))}"
        await self.scripts.call(script)

    def on_notification(self, channel: str, payload: str) -> bool:
        """Add the event to the stream, if it is complete. Returns whether the channel is that of a group."""
        known = self._groups.get(channel)
        if known is None:
            return False
        group, receiver = known
        try:
            message = receiver.add(payload)
        except DecodeError as error:
            self._log.write(logging.WARNING, "Dropped a notification on channel %s: %s", channel, error)
        else:
            if message is not None:
                self._events.add(Event(group, message))
        return True

    async def _execute(self, scripts: list[str]) -> Sequence[None]:
        try:
            await self._connection.execute("; ".join(scripts))
        except asyncpg.PostgresError as error:
            raise SubscriptionRefused(f"{self._connection.address}: {error}") from error
        return [None] * len(scripts)
