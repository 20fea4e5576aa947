"""One connection to PostgreSQL: one statement at a time, asyncpg's errors as the contract's, a watchdog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from ...core.exceptions import DeliveryUnknown, ListenerClosed, NotSupported
from ..common.watchdog import Watchdog
from .address import Address, NotificationConnection, OnNotification
from .statements import SERVER_STATE, SESSION_SETTINGS, TRANSACTION_SETTINGS

_CLOSE_TIMEOUT = 1.0

CONNECTION_ERRORS = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server closes the connection as asyncpg begins a statement
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
)
"""The server or the connection went away."""


class Connection:
    """One connection. Any task may use it; statements wait for each other.

    With ``pooled`` every statement has a transaction of its own, because a pooler may run the next one in another
    session.
    """

    def __init__(
        self,
        address: Address,
        on_lost: Callable[[ListenerClosed], None],
        on_notification: OnNotification | None = None,
        *,
        probe_interval: float,
        pooled: bool = False,
        synchronous_commit: bool = False,
    ) -> None:
        """``on_lost`` is called once when the connection breaks or falls silent, not for `close`.

        With ``synchronous_commit`` each statement that writes waits for the server's disk.
        """
        self.address = address
        self.process_id = 0
        """The process id of the server's end, as in ``pg_stat_activity``."""
        self.is_behind_pooler = False
        """Whether a pooler stands between, which gives out process ids of its own."""
        self.server_encoding = ""
        self._is_read_only = False
        self._on_lost: Callable[[ListenerClosed], None] | None = on_lost
        self._on_notification = on_notification
        self._pooled = pooled
        self._settings = TRANSACTION_SETTINGS if pooled else SESSION_SETTINGS
        if synchronous_commit:
            self._settings += f"; SET {'LOCAL ' if pooled else ''}synchronous_commit = on"
        self._lock = asyncio.Lock()
        self._driver: NotificationConnection
        self.watchdog = Watchdog(probe_interval, self._probe, lambda reason: self._lose(f"{address}: {reason}"))
        self._probing: asyncio.Task[None] | None = None

    async def open(self, *, cache_statements: bool) -> None:
        """Log in. Raises `ListenerClosed`, and leaves nothing open then."""
        self._driver = await self.address.open(self._notify, cache_statements=cache_statements)
        self._driver.add_termination_listener(self._on_termination)
        self.server_encoding = self._driver.get_settings().server_encoding

    async def check_server(self) -> None:
        """Raise `ListenerClosed` if the server is a standby."""
        ((standby, self.process_id, self._is_read_only),) = await self.fetch(SERVER_STATE)
        self.is_behind_pooler = self._driver.get_server_pid() != self.process_id
        if standby:
            raise ListenerClosed(
                f"{self.address} is a standby, which supports neither LISTEN nor NOTIFY. Give the address of the "
                f"primary, or all of them and target_session_attrs=primary"
            )

    async def prepare(self) -> None:
        """Apply the settings that the statements rely on."""
        if not self._pooled:
            await self.execute(self._settings)

    async def execute(self, script: str) -> None:
        """Run statements without parameters, all in one round trip and one transaction."""
        async with self._translate_errors():
            await self._driver.execute(script)

    async def fetch(self, statement: str, *parameters: object) -> list[Any]:
        """Run one statement. Raises `asyncpg.PostgresError` if the server refuses it."""
        async with self._translate_errors():
            if not self._pooled:
                return await self._driver.fetch(statement, *parameters)
            async with self._driver.transaction(isolation="read_committed"):
                await self._driver.execute(self._settings)
                return await self._driver.fetch(statement, *parameters)

    async def close(self, *, gracefully: bool) -> None:
        """End the connection, never raising; without ``gracefully`` no answer is awaited."""
        self._on_lost = None
        self.watchdog.stop()
        self._driver.remove_termination_listener(self._on_termination)
        try:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if gracefully and not self._lock.locked() and not self._driver.is_closed():
                    await asyncio.wait_for(self._driver.close(), _CLOSE_TIMEOUT)
        finally:
            self._driver.terminate()
        if self._probing is not None:
            await asyncio.wait([self._probing])
        await asyncio.sleep(0)  # the transport closes its socket in the next turn

    def _probe(self) -> None:
        if not self._lock.locked():  # a statement that runs is a probe itself
            self._probing = asyncio.ensure_future(self._execute_probe())

    async def _execute_probe(self) -> None:
        with suppress(ListenerClosed):  # `on_lost` was called
            await self.execute("SELECT 1")

    def _notify(self, channel: str, payload: str) -> None:
        self.watchdog.received = True
        if self._on_notification is not None:
            self._on_notification(channel, payload)

    def _on_termination(self, connection: object) -> None:
        self._lose(f"{self.address}: the connection was closed by the server")

    def _lose(self, reason: str) -> None:
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(ListenerClosed(reason))

    def _broken(self, error: Exception) -> DeliveryUnknown:
        self._lose(f"{self.address}: {error}")
        return DeliveryUnknown(f"{self.address}: {error}; what was sent may be accepted")

    @asynccontextmanager
    async def _translate_errors(self) -> AsyncIterator[None]:
        async with self._lock:
            if self._driver.is_closed():
                raise ListenerClosed(f"{self.address}: the connection is closed")
            self.watchdog.received = True
            try:
                yield
            except asyncpg.ReadOnlySQLTransactionError as error:
                if not self._is_read_only:  # it was no standby when the session began
                    raise self._broken(error) from error
                raise NotSupported(
                    f"{self.address}: {error}. Normal channels write, and default_transaction_read_only is on: "
                    f"turn it off for this user, or by server_settings={{'default_transaction_read_only': 'off'}}"
                ) from error
            except CONNECTION_ERRORS as error:
                raise self._broken(error) from error
            except asyncpg.PostgresError as error:
                if self._driver.is_closed():
                    raise DeliveryUnknown(f"{self.address}: {error}") from error
                raise
            finally:
                self.watchdog.received = True
