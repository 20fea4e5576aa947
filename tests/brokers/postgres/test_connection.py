"""One connection over a driver that plays a script."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest

from django_anyio_channels.brokers.postgres.address import Address
from django_anyio_channels.brokers.postgres.connection import Connection
from django_anyio_channels.core.exceptions import DeliveryUnknown, ListenerClosed

pytestmark = pytest.mark.anyio


class Driver:
    """Breaks with an error that is not one of a connection."""

    closed = False

    def add_termination_listener(self, listener: object) -> None:
        pass

    def get_settings(self) -> Any:
        return SimpleNamespace(server_encoding="UTF8")

    def is_closed(self) -> bool:
        return self.closed

    async def execute(self, script: str) -> None:
        if script == "INSERT":
            raise asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction")
        self.closed = True
        raise asyncpg.InternalServerError("the server gave up")


class DriverAddress:
    async def open(self, on_notification: object, *, cache_statements: bool) -> Driver:
        return Driver()

    def __str__(self) -> str:
        return "postgresql://test/"


async def test_an_error_that_closed_the_connection_leaves_the_outcome_open() -> None:
    lost: list[ListenerClosed] = []
    connection = Connection(cast(Address, DriverAddress()), lost.append, probe_interval=60)
    await connection.open(cache_statements=True)
    with pytest.raises(DeliveryUnknown, match="postgresql://test/: the server gave up"):
        await connection.execute("SELECT 1")
    with pytest.raises(ListenerClosed, match="postgresql://test/: the connection is closed"):
        await connection.execute("SELECT 1")


async def test_a_server_that_has_become_a_standby_ends_the_session() -> None:
    lost: list[ListenerClosed] = []
    connection = Connection(cast(Address, DriverAddress()), lost.append, probe_interval=60)
    await connection.open(cache_statements=True)
    with pytest.raises(DeliveryUnknown, match="in a read-only transaction"):
        await connection.execute("INSERT")
    assert len(lost) == 1
