"""One connection to PostgreSQL: one statement at a time, errors as the contract wants them, silence noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from ...core.exceptions import DeliveryUnknown, ListenerClosed
from .address import NotificationConnection

_CLOSE_SECONDS = 1.0
_TICKS = 4
"""How often in a probe interval a wire is looked at."""

_GONE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a farewell of the server that comes when asyncpg begins a statement
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""The server or the connection went away, or became a stand-by."""

_SETTINGS = (
    # What is notified or queued does not outlive a crash anyway, so no commit need wait for the disk.
    "synchronous_commit = off",
    # What the planner knows of a queue's size is outdated at once. Only an index in its order passes quickly over
    # what has been taken, and a plan per call would cost more than to follow it.
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_sort = off",
    "plan_cache_mode = force_generic_plan",
    # Before PostgreSQL 18 what is off and yet needed counts as so dear that it would be compiled each time.
    "jit = off",
)


class Wire:
    """One connection. Any task may use it; statements wait for each other.

    The statements rely on read committed and on `_SETTINGS`, which `begin` sets for the session.

    ``on_lost`` is called once when the connection breaks or falls silent, not for `close`. With ``pooled`` every
    statement gets a transaction of its own, because a pooler may give the next one to another server process.
    """

    def __init__(
        self,
        connection: NotificationConnection,
        address: str,
        on_lost: Callable[[ListenerClosed], None],
        *,
        pooled: bool = False,
    ) -> None:
        self.connection = connection
        self._address = address
        self._on_lost: Callable[[ListenerClosed], None] | None = on_lost
        self._pooled = pooled
        self._turn = asyncio.Lock()
        self._silent_ticks = 0
        self._probing: asyncio.Task[None] | None = None
        connection.add_termination_listener(self._terminated)

    async def begin(self) -> None:
        """Prepare the session."""
        if not self._pooled:
            settings = "default_transaction_isolation = 'read committed'", *_SETTINGS
            await self.execute("; ".join(f"SET {setting}" for setting in settings))

    async def execute(self, script: str) -> None:
        """Run statements without parameters, all in one round trip and one transaction."""
        async with self._at_the_border():
            await self.connection.execute(script)

    async def fetch(self, statement: str, *parameters: object) -> list[Any]:
        """Run one statement. Raises `asyncpg.PostgresError` if the server refuses it."""
        async with self._at_the_border():
            if not self._pooled:
                return await self.connection.fetch(statement, *parameters)
            async with self.connection.transaction(isolation="read_committed"):
                await self.connection.execute("; ".join(f"SET LOCAL {setting}" for setting in _SETTINGS))
                return await self.connection.fetch(statement, *parameters)

    def heard(self) -> None:
        """The server gave a sign of life."""
        self._silent_ticks = 0

    async def watch(self, probe_interval: float) -> None:
        """Probe when nothing is heard, and give the connection up after ``probe_interval`` seconds, until cancelled."""
        while True:
            # Ticks, not the clock: where the event loop itself was blocked, the answer waits unread.
            await asyncio.sleep(probe_interval / _TICKS)
            self._silent_ticks += 1
            if self._silent_ticks >= _TICKS and self._turn.locked():
                self._lost(ListenerClosed(f"{self._address}: no answer for {probe_interval:g} s (probe_interval)"))
            elif self._silent_ticks > 1 and not self._turn.locked() and (self._probing is None or self._probing.done()):
                self._probing = asyncio.ensure_future(self._probe())

    async def _probe(self) -> None:
        with suppress(ListenerClosed):  # whoever notices it first has called on_lost
            await self.execute("SELECT 1")

    async def close(self, *, politely: bool) -> None:
        """End the connection, never raising; without ``politely`` no answer is waited for."""
        self._on_lost = None
        self.connection.remove_termination_listener(self._terminated)
        try:
            with suppress(OSError, TimeoutError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if politely and not self._turn.locked() and not self.connection.is_closed():
                    await asyncio.wait_for(self.connection.close(), _CLOSE_SECONDS)
        finally:
            self.connection.terminate()
        if self._probing is not None:
            await asyncio.wait([self._probing])
        await asyncio.sleep(0)  # the transport closes its socket in the next turn

    def _terminated(self, connection: object) -> None:
        self._lost(ListenerClosed(f"{self._address}: the connection was closed by the server"))

    def _lost(self, error: ListenerClosed) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(error)

    @asynccontextmanager
    async def _at_the_border(self) -> AsyncIterator[None]:
        async with self._turn:
            if self.connection.is_closed():
                raise ListenerClosed(f"{self._address}: the connection is closed")
            self.heard()
            try:
                yield
            except _GONE as error:
                self._lost(ListenerClosed(f"{self._address}: {error}"))
                raise DeliveryUnknown(f"{self._address}: {error}; what was on its way may be accepted") from error
            except asyncpg.PostgresError as error:
                if self.connection.is_closed():
                    raise DeliveryUnknown(f"{self._address}: {error}") from error
                raise
            finally:
                self.heard()
