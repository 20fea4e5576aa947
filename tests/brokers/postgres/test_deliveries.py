"""Acknowledged work in its tables; tests/contract tests what every broker promises of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from django_anyio_channels.brokers.common.deliveries import Deliveries
from django_anyio_channels.brokers.postgres.deliveries import PostgreSQLWork
from django_anyio_channels.brokers.postgres.payloads import wake_channel
from django_anyio_channels.brokers.postgres.session import Session
from django_anyio_channels.core.exceptions import ChannelLayerError, ListenerClosed, QueueFull
from tests.support.brokers import postgres as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio

TIME_LIMIT = 30
JOBS = PostgreSQLWork(b"jobs")
EVENTS = PostgreSQLWork(b"g", b"workers")


async def soon(call: Awaitable[Any]) -> Any:
    with anyio.fail_after(TIME_LIMIT):
        return await call


@pytest.fixture
async def layer(database: brokers.Postgres, connect: Connect) -> PostgreSQLChannelLayer:
    layer = await connect(database.url, history_length=10)
    layer.set_acknowledged(lambda queue: queue == "jobs")
    return layer


def session_of(layer: PostgreSQLChannelLayer) -> Session:
    assert layer._session is not None
    return layer._session


async def deliver(
    layer: PostgreSQLChannelLayer, work: PostgreSQLWork, number: int, *, count: int = 10, seconds: float = 60.0
) -> Deliveries:
    reply: Deliveries | None = await soon(work.deliver(session_of(layer), f"node {number}", number, count, seconds))
    assert reply is not None
    return reply


def contents(reply: Deliveries) -> list[tuple[bytes, int]]:
    return [(each.message, each.deliveries) for each in reply.delivered]


async def put(layer: PostgreSQLChannelLayer, *messages: bytes, queue: str = "jobs", capacity: int = 100) -> None:
    for message in messages:
        await layer.put(queue, message, capacity=capacity, expiry=60)


@pytest.mark.parametrize("queue", ["jobs", "others"])
async def test_a_queue(layer: PostgreSQLChannelLayer, queue: str) -> None:
    """In a table that outlives a crash, or, where the layer does not know that it is acknowledged, in the other one."""
    work = PostgreSQLWork(queue.encode())
    await put(layer, b"1", b"2", b"3", queue=queue)
    first = await deliver(layer, work, 1, count=2)
    assert contents(first) == [(b"1", 1), (b"2", 1)]
    assert contents(await deliver(layer, work, 1, count=2)) == [(b"1", 1), (b"2", 1)], "the reply was lost"
    assert contents(await deliver(layer, work, 2)) == [(b"3", 1)]
    assert contents(await deliver(layer, work, 3)) == []
    await soon(work.acknowledge(session_of(layer), first.delivered[0].work_id))
    await work.release(session_of(layer), [first.delivered[1].work_id], undelivered=False)
    assert contents(await deliver(layer, work, 4, seconds=0.01)) == [(b"2", 2)]
    await anyio.sleep(0.02)
    again = await deliver(layer, work, 5)
    assert contents(again) == [(b"2", 3)]
    await work.release(session_of(layer), [again.delivered[0].work_id], undelivered=True)
    assert contents(await deliver(layer, work, 6)) == [(b"2", 3)], "nobody had it"
    assert work.position(again.delivered[0].work_id) is None
    assert (await deliver(layer, work, 7)).seconds == 5


async def test_who_asks_for_more_has_acknowledged_first(layer: PostgreSQLChannelLayer) -> None:
    await put(layer, b"1", b"2")
    [first] = (await deliver(layer, JOBS, 1, count=1)).delivered
    acknowledged = JOBS.acknowledge(session_of(layer), first.work_id)
    await deliver(layer, JOBS, 2)
    assert acknowledged.done()


async def test_what_is_locked_is_left_to_others(layer: PostgreSQLChannelLayer, database: brokers.Postgres) -> None:
    await put(layer, b"1", b"2")
    await put(layer, b"3", queue="others")
    with psycopg.connect(database.url) as theirs:
        theirs.execute("SELECT FROM django_anyio_channels_job WHERE message = '1' FOR UPDATE")
        theirs.execute("SELECT FROM django_anyio_channels_queue FOR UPDATE")
        assert contents(await deliver(layer, JOBS, 1)) == [(b"2", 1)]
        assert contents(await deliver(layer, PostgreSQLWork(b"others"), 1)) == []
    assert contents(await deliver(layer, JOBS, 2)) == [(b"1", 1)]


async def test_many_workers_get_each_once(layer: PostgreSQLChannelLayer, connect: Connect, database: Any) -> None:
    layers = [layer, *[await connect(database.url) for _ in range(2)]]
    found: list[bytes] = []

    async def work(each: PostgreSQLChannelLayer) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                event = await each.receive_job("jobs")
                found.append(event.message)
                await event.ack()

    workers = [asyncio.ensure_future(work(each)) for each in layers for _ in range(4)]
    sent = [b"%d" % number for number in range(300)]
    async with anyio.create_task_group() as tasks:
        for number, message in enumerate(sent):
            tasks.start_soon(lambda queue, message: put(layer, message, queue=queue, capacity=1000), "jobs", message)
            if number % 50 == 0:
                await anyio.lowlevel.checkpoint()
    with anyio.fail_after(TIME_LIMIT):
        while len(found) < len(sent):
            await anyio.sleep(0.01)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    assert sorted(found) == sorted(sent)
    assert database.ask("SELECT count(*) FROM django_anyio_channels_job") == [(0,)]


async def test_capacity_is_for_what_waits(layer: PostgreSQLChannelLayer) -> None:
    await put(layer, b"1", b"2", capacity=2)
    with pytest.raises(QueueFull):
        await put(layer, b"3", capacity=2)
    await deliver(layer, JOBS, 1, count=1)
    await put(layer, b"4", capacity=2)
    results: list[bool] = []

    async def try_to(queue: str) -> None:
        try:
            await layer.put(queue, b"x", capacity=3, expiry=60)
        except QueueFull:
            results.append(False)
        else:
            results.append(True)

    layer.set_acknowledged(lambda queue: True)
    async with anyio.create_task_group() as tasks:
        for queue in ("jobs", "new") * 4:
            tasks.start_soon(try_to, queue)
    assert sorted(results) == [False] * 4 + [True] * 4


async def test_what_nobody_wants_is_swept(layer: PostgreSQLChannelLayer, database: brokers.Postgres) -> None:
    session = session_of(layer)
    await session.jobs.sweep()  # it has not used the tables
    assert database.ask("SELECT to_regclass('django_anyio_channels_job')") == [(None,)]
    await layer.put("jobs", b"expired", capacity=10, expiry=0.001)
    await put(layer, b"waits", b"pending", b"forgotten")
    reply = await deliver(layer, JOBS, 1)
    assert contents(reply) == [(b"waits", 1), (b"pending", 1), (b"forgotten", 1)]
    database.ask("UPDATE django_anyio_channels_job SET due = now() - interval '25 h' WHERE message = 'forgotten'")
    await put(layer, b"waits, too")
    await layer.join("g", "workers")
    await layer.join("g", "gone")
    database.ask(
        "UPDATE django_anyio_channels_cursor SET touched = now() - '26 h'::interval WHERE consumer_group = 'gone'"
    )
    await session.jobs.sweep()
    left = "SELECT convert_from(message, 'UTF8') FROM django_anyio_channels_job ORDER BY id"
    assert database.ask(left) == [("waits",), ("pending",), ("waits, too",)]
    assert database.ask("SELECT consumer_group FROM django_anyio_channels_cursor") == [(b"workers",)]
    await layer.purge("")
    assert database.ask(left) == []


async def test_a_purge_of_a_layer_without_acknowledged_work(
    layer: PostgreSQLChannelLayer, connect: Connect, database: brokers.Postgres
) -> None:
    other = await connect(database.url)
    await other.purge("")
    assert database.ask("SELECT to_regclass('django_anyio_channels_job')") == [(None,)]
    await put(layer, b"1")
    await other.purge("jo")
    assert contents(await deliver(layer, JOBS, 1)) == []
    await put(layer, b"2")
    await other.purge("jo")
    assert contents(await deliver(layer, JOBS, 2)) == []


async def test_a_consumer_group(layer: PostgreSQLChannelLayer, database: brokers.Postgres) -> None:
    await layer.publish("g", b"before")
    await layer.join("g", "workers")
    position = (await layer.publish("g", b"1")).position
    await layer.publish("g", b"2")
    await layer.join("g", "workers")  # again
    first = await deliver(layer, EVENTS, 1, count=1)
    assert contents(first) == [(b"1", 1)]
    assert EVENTS.position(first.delivered[0].work_id) == position
    assert not first.lost
    assert contents(await deliver(layer, EVENTS, 2)) == [(b"2", 1)]
    assert contents(await deliver(layer, EVENTS, 3)) == []
    for number in range(30):
        await layer.publish("g", b"%d" % number)
    late = await deliver(layer, EVENTS, 4, count=100)
    assert late.lost
    assert contents(late) == [(b"%d" % number, 1) for number in range(30 - len(late.delivered), 30)]
    await layer.publish("g", b"gone")
    database.ask("DELETE FROM django_anyio_channels_history")
    nothing = await deliver(layer, EVENTS, 5)
    assert (nothing.lost, nothing.delivered) == (True, [])
    assert not (await deliver(layer, EVENTS, 6)).lost, "once"
    database.ask("DELETE FROM django_anyio_channels_position")
    assert not (await deliver(layer, EVENTS, 7)).lost, "nothing was published yet"
    await layer.publish("g", b"of another epoch")
    anew = await deliver(layer, EVENTS, 8)
    assert (anew.lost, contents(anew)) == (True, [(b"of another epoch", 1)])
    never_joined = await deliver(layer, PostgreSQLWork(b"g", b"others"), 1)
    assert (never_joined.lost, contents(never_joined)) == (True, [(b"of another epoch", 1)])


async def test_a_node_is_woken_and_forgotten(layer: PostgreSQLChannelLayer) -> None:
    session, woken = session_of(layer), anyio.Event()
    await JOBS.watch(session, woken.set)
    await put(layer, b"1")
    await soon(woken.wait())
    JOBS.unwatch(session)
    again = anyio.Event()
    await JOBS.watch(session, again.set)  # before it has stopped listening
    await put(layer, b"2")
    await soon(again.wait())
    reader = asyncio.ensure_future(layer.take("others"))
    await put(layer, b"3", queue="others")
    assert await soon(reader) == b"3", "who does not acknowledge is woken, too"
    JOBS.unwatch(session)
    await anyio.wait_all_tasks_blocked()
    channels = [channel for (channel,) in await session._listening.fetch("SELECT pg_listening_channels()")]
    assert wake_channel(b"jobs") not in channels


async def test_an_acknowledgement_that_fails(layer: PostgreSQLChannelLayer, database: brokers.Postgres) -> None:
    await put(layer, b"1", b"2", b"3")
    session = session_of(layer)
    one, two, three = (await deliver(layer, JOBS, 1)).delivered
    database.ask(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$; "
        "CREATE TRIGGER refuse BEFORE DELETE ON django_anyio_channels_job FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(ChannelLayerError, match="refused"):
        await soon(JOBS.acknowledge(session, one.work_id))
    cancelled = JOBS.acknowledge(session, two.work_id)
    for task in set(session.jobs._tasks):
        await anyio.lowlevel.checkpoint()
        task.cancel()
    with pytest.raises(ListenerClosed, match="The event loop ends"):
        await soon(cancelled)
    await layer.disconnect()
    with pytest.raises(ListenerClosed):
        await soon(JOBS.acknowledge(session, three.work_id))
    session.jobs.watching[wake_channel(b"jobs")] = lambda: None
    JOBS.unwatch(session)  # the session is over
    await anyio.wait_all_tasks_blocked()
