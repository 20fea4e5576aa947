"""Two connections from connect to disconnect: `django_anyio_channels.brokers.postgres.session`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest

from django_anyio_channels import ListenerClosed, PostgreSQLChannelLayer
from django_anyio_channels.brokers.common.peers import PeerBarrier
from django_anyio_channels.brokers.postgres.address import Address
from django_anyio_channels.brokers.postgres.connection import Connection
from django_anyio_channels.brokers.postgres.history import Limits, Memory
from django_anyio_channels.brokers.postgres.queues import Queues
from django_anyio_channels.brokers.postgres.session import Session
from django_anyio_channels.core.events import PublishResult
from django_anyio_channels.core.exceptions import ChannelLayerError, PublishRefused
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import free_port

from .conftest import Connect, publish

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def session_of(database: brokers.Postgres) -> AsyncIterator[Session]:
    address = Address(database.url, {}, layer_options=frozenset())
    session = Session(
        address,
        address,
        probe_interval=10,
        scope="",
        barrier=PeerBarrier(1),
        leased={},
        limits=Limits(0, 1, 1),
        memory=Memory(),
        synchronous_commit=False,
        on_end=lambda error: None,
    )
    await session.open()
    try:
        yield session
    finally:
        await session.close(ListenerClosed("the test is over"))


def count_connections(database: brokers.Postgres) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'django-anyio-channels'"
    ((count,),) = database.ask(query, database.database, database="postgres")
    assert isinstance(count, int)
    return count


async def test_a_layer_has_two_connections_whatever_it_does(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(layer.subscribe, f"g{number}")
            tasks.start_soon(layer.publish, f"g{number}", b"x")
    await layer.put("q", b"x", capacity=10, expiry=60)
    await layer.take("q")
    assert count_connections(database) == 2


async def test_connections_have_an_application_name(database: brokers.Postgres, connect: Connect) -> None:
    await connect(database.url)
    assert count_connections(database) == 2


async def test_publish_subscribe_makes_nothing_in_the_database(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    await layer.subscribe("g")
    await layer.publish("g", b"x")
    assert database.ask("SELECT relname FROM pg_class WHERE relname LIKE 'django%%'") == []


async def test_a_pooler_in_transaction_mode_is_recognised(server: brokers.Postgres) -> None:
    with brokers.pgbouncer(server, "transaction") as pooler:
        layer = PostgreSQLChannelLayer(pooler.url)
        for _ in range(3):
            with pytest.raises(
                ListenerClosed, match=r"transaction mode \(PgBouncer, RDS Proxy\).*listen_url"
            ) as caught:
                await layer.connect()
            assert str(pooler.server.port) in str(caught.value)


async def test_a_pooler_is_recognised_by_the_statements_of_another_process(
    server: brokers.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with brokers.pgbouncer(server, "transaction") as pooler:
        for _ in range(3):
            monkeypatch.setattr("asyncpg.connection._uid", 0)  # as in a new process
            layer = PostgreSQLChannelLayer(pooler.url)
            with pytest.raises(
                ListenerClosed, match=r"transaction mode \(PgBouncer, RDS Proxy\).*listen_url"
            ) as caught:
                await layer.connect()
            assert "statement_cache_size" not in str(caught.value)


async def test_the_server_ends_a_session_whose_process_reads_no_more(
    database: brokers.Postgres, connect: Connect
) -> None:
    """Its unread notifications would fill the server's queue, and then every commit with a NOTIFY fails."""
    stopped = await connect(database.url, server_settings={"tcp_user_timeout": "1000"}, probe_interval=1000.0)
    await stopped.subscribe("g")
    assert stopped._session is not None
    driver: Any = stopped._session._listening._driver
    driver._transport.pause_reading()
    fill = "SELECT count(pg_notify('g', n || repeat('x', 7900))) FROM generate_series(1, 3000) AS n"
    listens = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    with anyio.fail_after(60):
        while database.ask(listens, stopped.processes["listening"]) != [(0,)]:
            await anyio.to_thread.run_sync(database.ask, fill)
        while database.ask("SELECT pg_notification_queue_usage() > 0.001") != [(False,)]:
            database.ask("NOTIFY g")  # it advances the queue
    driver._transport.resume_reading()


async def test_the_server_gives_up_a_reader_after_half_a_minute(database: brokers.Postgres, connect: Connect) -> None:
    for options, expected in (({}, "30000"), ({"server_settings": {"tcp_user_timeout": "1min"}}, "60000")):
        layer = await connect(database.url, **options)
        assert layer._session is not None
        assert await layer._session._listening.fetch("SHOW tcp_user_timeout") == [(expected,)]


async def test_a_refused_message_names_the_address(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(database.url)

    async def refuse(self: Connection, statement: str, *parameters: object) -> None:
        raise asyncpg.ProgramLimitExceededError("too many notifications in the NOTIFY queue")

    monkeypatch.setattr(Connection, "fetch", refuse)
    with pytest.raises(PublishRefused, match=f"{layer.address}: too many notifications"):
        await layer.publish("g", b"x")
    with pytest.raises(ChannelLayerError, match=f"{layer.address}: too many notifications"):
        await layer.count_subscribers("g")


async def test_an_error_while_connecting_names_the_address(
    database: brokers.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: Connection) -> None:
        raise asyncpg.InsufficientPrivilegeError("not allowed")

    monkeypatch.setattr(Connection, "prepare", refuse)
    layer = PostgreSQLChannelLayer(database.url)
    with pytest.raises(ListenerClosed, match=f"{layer.address}: not allowed"):
        await layer.connect()


async def test_listen_url_leads_around_a_pooler(database: brokers.Postgres, connect: Connect) -> None:
    with brokers.pgbouncer(database, "transaction") as pooler:
        layer = await connect(pooler.url, listen_url=database.url)
        other = await connect(pooler.url, listen_url=database.url)
        await layer.subscribe("g")
        await layer.bind("g", "q", capacity=1000, expiry=60, lifetime=60)
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(publish, (layer, other)[number % 2], "g", b"%d" % number)
        expected = {b"%d" % number for number in range(200)}
        assert {(await layer.next_published()).message for _ in range(200)} == expected
        assert {await other.take("q") for _ in range(200)} == expected
        await layer.disconnect()
        await other.disconnect()


async def test_a_pooler_in_session_mode_will_do(database: brokers.Postgres, connect: Connect) -> None:
    with brokers.pgbouncer(database, "session") as pooler:
        layer = await connect(pooler.url)
        await layer.subscribe("g")
        await layer.publish("g", b"x")
        assert (await layer.next_published()).message == b"x"
        await layer.disconnect()


async def test_a_listen_url_to_another_database_is_noticed(
    database: brokers.Postgres, server: brokers.Postgres
) -> None:
    layer = PostgreSQLChannelLayer(database.url, listen_url=server.url)
    with pytest.raises(ListenerClosed, match="Both must lead to the same database"):
        await layer.connect()


async def test_a_standby_is_recognised(server: brokers.Postgres) -> None:
    with brokers.standby(server) as standby:
        layer = PostgreSQLChannelLayer(standby.url)
        with pytest.raises(ListenerClosed, match=r"is a standby.*target_session_attrs=primary"):
            await layer.connect()


async def test_connecting_to_nobody_who_answers_may_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        layer = PostgreSQLChannelLayer(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.connect)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ListenerClosed, match="is not connected yet"):
                await layer.publish("g", b"x")
            tasks.cancel_scope.cancel()
        with pytest.raises(ListenerClosed, match="is not connected; use"):
            await layer.publish("g", b"x")


async def test_an_unexpected_error_ends_the_session_and_is_logged(
    database: brokers.Postgres, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: Queues) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(Queues, "maintain", broken)
    layer = await connect(database.url)
    with anyio.fail_after(30), pytest.raises(ListenerClosed, match="by accident"):
        await layer.next_published()
    assert "Unexpected error in the PostgreSQL layer; reconnecting: ZeroDivisionError('by accident')" in caplog.text


async def test_a_layer_that_could_not_connect_may_be_disconnected() -> None:
    layer = PostgreSQLChannelLayer(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(ListenerClosed, match="Connect"):
        await layer.connect()
    await layer.disconnect()
    with pytest.raises(ListenerClosed, match="is not connected"):
        await layer.publish("room", b"x")


async def test_a_notification_for_an_unsubscribed_channel_is_dropped(database: brokers.Postgres) -> None:
    async with session_of(database) as session:
        await session.subscriptions.scripts.call("LISTEN given_up")
        await session.subscribe("g")
        database.ask("NOTIFY given_up")
        await session.publisher.publish("g", b"ours")
        assert (await session.events.next()).message == b"ours"


async def test_tables_that_are_dropped_while_a_message_is_published(
    database: brokers.Postgres, connect: Connect
) -> None:
    """A layer that knows of the tables sends the message all the same, once."""
    layer = await connect(database.url)
    await layer.subscribe("g")
    await layer.bind("g", "q", capacity=1, expiry=60, lifetime=60)
    result = await layer.publish("g", b"bound")
    assert [bound.queue for bound in result.bound_queues] == ["q"]
    database.ask("DROP TABLE django_anyio_channels_queue, django_anyio_channels_binding")
    assert await layer.publish("g", b"not bound") == PublishResult()
    for message in (b"bound", b"not bound"):
        assert (await layer.next_published()).message == message
