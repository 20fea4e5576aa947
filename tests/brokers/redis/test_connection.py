"""`brokers.redis.connection` and `brokers.redis.session`: what becomes of connections that nobody wants any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_anyio_channels import ListenerClosed, RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis.connection import Connection
from django_anyio_channels.brokers.redis.server import ServerConnections
from tests.support.brokers import redis as brokers

from .conftest import becomes_true

pytestmark = pytest.mark.anyio


class Transport(asyncio.Transport):
    """Knows whether it was closed, and takes nothing then."""

    closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.closed = True


@pytest.mark.parametrize("opens_late", [False, True])
async def test_a_connection_that_opens_although_connecting_was_cancelled_is_closed(opens_late: bool) -> None:
    """As on uvloop: asyncio would not open it."""
    connection, transport = Connection("redis://test"), Transport()
    steps: list[Any] = [lambda: connection.connection_made(transport), connection.abandon]
    for step in reversed(steps) if opens_late else steps:
        step()
    assert transport.closed
    with pytest.raises(ListenerClosed, match="was closed"):
        connection.require_open()


async def test_a_connection_that_has_ended_writes_nothing() -> None:
    """uvloop raises what asyncio ignores."""
    connection, transport = Connection("redis://test"), Transport()
    connection.connection_made(transport)
    replies = [connection.execute(b"PING") for _ in range(3)]
    connection.end("enough")
    await asyncio.sleep(0)
    for reply in replies:
        with pytest.raises(ListenerClosed, match="enough"):
            await reply
    connection.connection_lost(None)
    await connection.close()
    assert transport.closed


async def test_a_server_that_refuses_before_it_is_asked_gives_the_reason() -> None:
    """On uvloop its words may come first."""
    connection = Connection("redis://test")
    connection.connection_made(Transport())
    connection.data_received(b"-ERR max number of clients reached\r\n")
    with pytest.raises(ListenerClosed, match=r"redis://test: ERR max number of clients reached$"):
        connection.require_open()


async def test_a_session_that_is_closed_when_it_has_just_connected_leaves_nothing_open(
    server: brokers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = RedisPubSubChannelLayer(server.url)
    connect = ServerConnections.open

    async def open_and_disconnect(topology: ServerConnections) -> None:
        await connect(topology)
        await layer.disconnect()

    clients = server.ask("CLIENT LIST")
    monkeypatch.setattr(ServerConnections, "open", open_and_disconnect)
    with pytest.raises(ListenerClosed, match="was disconnected while it connected"):
        await layer.connect()
    await becomes_true(lambda: server.ask("CLIENT LIST").count("\n") == clients.count("\n"))
