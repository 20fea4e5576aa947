"""Servers for the tests of the Redis layer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from django_anyio_channels.layers.redis import RedisPubSubChannelLayer
from tests.brokers import redis as brokers

Connect = Callable[..., Awaitable[RedisPubSubChannelLayer]]


async def becomes_true(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true, for so many seconds at most."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The driver is asyncio's. Its debug mode makes seconds of a test that takes a tenth of one."""
    return "asyncio", {"debug": False}


@pytest.fixture(scope="session", params=brokers.FLAVOURS)
def shared_server(request: pytest.FixtureRequest) -> Iterator[brokers.Redis]:
    """One server for all tests that leave it alone."""
    made = brokers.plain(request.param)
    with brokers.running(made):
        yield made


@pytest.fixture
def server(shared_server: brokers.Redis) -> brokers.Redis:
    """A shared server, empty."""
    shared_server.ask("FLUSHALL")
    return shared_server


@pytest.fixture(params=brokers.FLAVOURS)
def own_server(request: pytest.FixtureRequest) -> Iterator[brokers.Redis]:
    """A server that the test may disturb."""
    made = brokers.plain(request.param)
    with brokers.running(made):
        yield made


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connected layers, and disconnects them at the end."""
    async with AsyncExitStack() as stack:

        async def connect_layer(url: str, **options: Any) -> RedisPubSubChannelLayer:
            layer = RedisPubSubChannelLayer(url, **options)
            await layer.connect()
            stack.push_async_callback(layer.disconnect)
            return layer

        yield connect_layer
