"""Servers for the tests of the PostgreSQL layer."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import running
from tests.support.layers import anyio_backend, connecting

__all__ = ["anyio_backend"]

Connect = Callable[..., Awaitable[PostgreSQLChannelLayer]]


@pytest.fixture(scope="session", params=["newest", "older"])
def server(request: pytest.FixtureRequest) -> Iterator[brokers.Postgres]:
    """One server for all tests that leave it running."""
    made = brokers.plain(older=request.param == "older")
    with running(made.server):
        yield made


@pytest.fixture
def database(server: brokers.Postgres) -> Iterator[brokers.Postgres]:
    """A new database on the shared server."""
    name = f"test_{uuid.uuid4().hex}"
    server.ask(f"CREATE DATABASE {name}")
    yield brokers.Postgres(server.server, server.programs, name)
    server.ask(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def own_server() -> Iterator[brokers.Postgres]:
    """A server that the test may kill."""
    made = brokers.plain()
    with running(made.server):
        yield made


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connected layers, and disconnects them at the end."""
    async with connecting(PostgreSQLChannelLayer) as connect:
        yield connect


async def publish(layer: PostgreSQLChannelLayer, group: str, message: bytes) -> None:
    """Publish, and put the message into the bound queues, as the hub does."""
    for bound in (await layer.publish(group, message)).bound_queues:
        await layer.put(bound.queue, message, capacity=bound.capacity, expiry=bound.expiry)
