"""Servers for the tests of the Redis layer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from django_anyio_channels.brokers.redis.layer import RedisPubSubChannelLayer
from django_anyio_channels.core.exceptions import QueueFull
from tests.support.brokers import redis as brokers
from tests.support.layers import anyio_backend, connecting

__all__ = ["anyio_backend"]

Connect = Callable[..., Awaitable[RedisPubSubChannelLayer]]


async def becomes_true(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until ``condition()`` is true, for so many seconds at most."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


async def publish(layer: RedisPubSubChannelLayer, group: str, message: bytes) -> None:
    """Publish, and put into bound queues, as the hub does."""
    for queue, capacity, expiry in (await layer.publish(group, message)).bound_queues:
        with suppress(QueueFull):
            await layer.put(queue, message, capacity=capacity, expiry=expiry)


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[brokers.Cluster]:
    """Three masters. Tests may move slots."""
    with brokers.cluster() as made:
        yield made


@pytest.fixture
def growing() -> Iterator[brokers.Cluster]:
    """Three masters, the last of which has no slots yet. The test may do what it likes."""
    with brokers.cluster(serving=2) as made:
        yield made


@pytest.fixture(scope="module")
def replicated() -> Iterator[brokers.Cluster]:
    """Three masters, each with a replica. Tests may kill a master that has one."""
    with brokers.cluster(replicas=3) as made:
        yield made


@pytest.fixture(scope="module")
def protected() -> Iterator[brokers.Cluster]:
    """Three masters that want TLS and a password."""
    with brokers.cluster("redis", protected=True, options=["--bind", "127.0.0.1", "127.0.0.2"]) as made:
        yield made


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connected layers, and disconnects them at the end."""

    def make(url: str, *, scope: str | None = None, **options: Any) -> RedisPubSubChannelLayer:
        layer = RedisPubSubChannelLayer(url, **options)
        if scope is not None:
            layer.set_scope(scope)
        return layer

    async with connecting(make) as connect:
        yield connect
