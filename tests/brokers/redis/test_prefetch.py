"""Messages of a long queue that a node has and no reader yet: whose they are when something happens to the node."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import ListenerClosed
from django_anyio_channels.brokers.redis import prefetch, readers
from django_anyio_channels.brokers.redis import queues as redis_queues
from django_anyio_channels.brokers.redis.layer import RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis.packets import encode_command
from django_anyio_channels.brokers.redis.prefetch import Prefetched
from django_anyio_channels.brokers.redis.scripts import EXPIRY_PREFIX
from tests.support.brokers import redis as brokers

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio

PLENTY: Any = {"capacity": 100_000, "expiry": 60.0}
JOBS = 40


@pytest.fixture(autouse=True)
def readers_count_as_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is; and nothing returns only because a reader takes its time."""
    monkeypatch.setattr(redis_queues, "REQUEUE_DELAY", 600.0)


def set_lease(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have a server keep prefetched messages for their node for so long."""
    monkeypatch.setattr(readers, "LEASE_SECONDS", seconds)


def prefetched(layer: RedisPubSubChannelLayer) -> list[int]:
    """What a layer has that no reader has."""
    return [int(message[EXPIRY_PREFIX:]) for message in layer._queues._queues[b"jobs"].prefetched.messages]


async def take(layer: RedisPubSubChannelLayer, count: int = 1) -> list[int]:
    with anyio.fail_after(30):
        return [int(await layer.take("jobs")) for _ in range(count)]


async def put(layer: RedisPubSubChannelLayer, numbers: range) -> None:
    for number in numbers:
        await layer.put("jobs", b"%d" % number, **PLENTY)


@pytest.fixture
async def node(server: brokers.Redis, connect: Connect) -> RedisPubSubChannelLayer:
    """A node whose readers have been quick, and have got what there was."""
    layer = await connect(server.url)
    await put(layer, range(-9, 0))
    assert await take(layer, 9) == list(range(-9, 0))
    return layer


async def prefetch_from(node: RedisPubSubChannelLayer, jobs: int = JOBS) -> list[int]:
    """Have a node prefetch; return the one message that its reader has got."""
    await put(node, range(jobs))
    got = await take(node)
    assert prefetched(node) == list(range(1, 1 + len(prefetched(node))))
    assert prefetched(node), "it has prefetched"
    return got


async def kill(node: RedisPubSubChannelLayer) -> None:
    """End the node as a killed process does: it says nothing more."""
    node.require_session().abort(ListenerClosed("killed"))
    await node.disconnect()


async def test_half_of_a_queue_at_most_is_prefetched_and_its_order_is_kept(node: RedisPubSubChannelLayer) -> None:
    got = await prefetch_from(node)
    assert len(prefetched(node)) <= JOBS // 2
    assert got + await take(node, JOBS - 1) == list(range(JOBS))


async def test_a_long_queue_costs_far_fewer_calls_than_messages(
    node: RedisPubSubChannelLayer, server: brokers.Redis
) -> None:
    await put(node, range(1000))

    def calls() -> int:
        return int(server.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"])

    before = calls()
    assert await take(node, 1000) == list(range(1000))
    assert calls() - before < 100


async def test_several_readers_of_a_node_share_what_is_prefetched(node: RedisPubSubChannelLayer) -> None:
    got = await prefetch_from(node)
    with anyio.fail_after(30):
        while len(got) < JOBS - 4:
            got += [int(message) for message in await asyncio.gather(*(node.take("jobs") for _ in range(5)))]
    got += await take(node, JOBS - len(got))
    assert got == list(range(JOBS))


async def test_a_killed_node_takes_along_what_its_reader_had_and_nothing_else(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_lease(monkeypatch, 0.2)
    await prefetch_from(node)
    monkeypatch.setattr(prefetch, "LEASE_SECONDS", 600.0)  # however slow the machine is
    had = [0]
    for _ in range(3):
        had += [int(message[EXPIRY_PREFIX:]) for message in list(queue_of(node).prefetched.messages)[:1]]
        begin = queue_of(node).prefetched.begin()[0]
        await node.require_session().executor(b"jobs").execute(begin)
    await kill(node)
    other = await connect(server.url)
    # It gets what is left in the queue, then waits, and asks again when the time of the killed one is over.
    assert sorted(had + await take(other, JOBS - len(had))) == list(range(JOBS))
    assert had == [0, 1, 2, 3]


def queue_of(layer: RedisPubSubChannelLayer) -> readers.Queue:
    return layer._queues._queues[b"jobs"]


async def recoverable(server: brokers.Redis) -> None:
    """Wait until the messages that a node has not given to readers in time are for others."""
    await becomes_true(lambda: int(server.ask("HGET", "{jobs}|in flight", "ahead")) <= 1000 * time.time())


async def test_what_a_killed_node_had_prefetched_is_not_left_behind_a_queue_that_is_never_empty(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_lease(monkeypatch, 0.0)
    await prefetch_from(node)
    await kill(node)
    newcomer = await connect(server.url)
    got = await take(newcomer)
    await recoverable(server)
    assert await take(newcomer) == [1], "which is older than what is in the queue"
    assert sorted(got + await take(newcomer, JOBS - 3)) == list(range(2, JOBS))


async def test_what_a_killed_node_had_prefetched_goes_to_a_busy_node_when_its_time_is_over(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = await connect(server.url)
    await put(node, range(-1, 0))
    assert await take(busy) == [-1]
    set_lease(monkeypatch, 0.0)
    await prefetch_from(node)
    await kill(node)
    await take(busy)
    await recoverable(server)
    assert await take(busy) == [1]


async def test_what_is_prefetched_returns_when_a_reader_waits_elsewhere(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_lease(monkeypatch, 600.0)  # so that this is not why
    got = await prefetch_from(node)
    other = await connect(server.url)
    assert sorted(got + await take(other, JOBS - 1)) == list(range(JOBS))
    assert not prefetched(node)


async def test_what_is_prefetched_returns_also_if_the_notification_comes_before_it(
    node: RedisPubSubChannelLayer, server: brokers.Redis
) -> None:
    await prefetch_from(node)
    await take(node, JOBS - 1)
    await put(node, range(JOBS))
    reader = asyncio.ensure_future(node.take("jobs"))
    await anyio.lowlevel.checkpoint()
    assert queue_of(node).calling
    node._queues._on_notification(queue_of(node), b"wanted")
    assert int(await reader) == 0
    await becomes_true(lambda: server.ask("LLEN", "jobs") == JOBS - 1)


async def test_a_node_that_has_given_all_to_readers_is_not_waited_for(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect
) -> None:
    got = await prefetch_from(node)
    got += await take(node, len(prefetched(node)))
    other = await connect(server.url)
    got += await take(other, JOBS - len(got))
    assert sorted(got) == list(range(JOBS))
    reader = asyncio.ensure_future(other.take("jobs"))
    await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
    assert not queue_of(node).notified
    await put(node, range(JOBS, JOBS + 1))
    assert int(await reader) == JOBS


async def test_nothing_is_prefetched_while_a_reader_waits_elsewhere(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect
) -> None:
    waiting = await connect(server.url)
    reader = asyncio.ensure_future(waiting.take("jobs"))
    await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
    server.ask("RPUSH", "jobs", *("9" * EXPIRY_PREFIX + str(number) for number in range(JOBS)))
    assert await take(node) == [0]
    assert not prefetched(node)
    await put(node, range(JOBS, JOBS + 1))  # wakes nobody: the queue is not empty
    await node.require_session().execute(b"jobs", "PUBLISH", "{jobs}|messages", "")
    assert int(await reader) == 1
    server.ask("RPUSH", "{jobs}|waiting", "nobody 7")
    assert await take(node) == [2]
    assert prefetched(node)
    assert server.ask("LLEN", "{jobs}|waiting") == 0


async def test_readers_get_nothing_that_may_be_for_others_by_now(
    node: RedisPubSubChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "LEASE_SECONDS", 0.0)
    got = await prefetch_from(node)
    assert got + await take(node, JOBS - 1) == list(range(JOBS))


async def test_after_a_broken_connection_readers_get_each_once_and_in_order(node: RedisPubSubChannelLayer) -> None:
    got = await prefetch_from(node)
    got += await take(node, 3)
    # The server is not told any more what this reader gets.
    begin = queue_of(node).prefetched.begin
    session = node.require_session()
    _, message = begin()
    got.append(int(message[EXPIRY_PREFIX:]))
    session.abort(ListenerClosed("broken"))
    await node.connect()
    assert got + await take(node, JOBS - len(got)) == list(range(JOBS))


async def test_after_a_broken_connection_what_no_reader_has_returns_although_none_comes(
    node: RedisPubSubChannelLayer, server: brokers.Redis
) -> None:
    await prefetch_from(node)
    queue_of(node).prefetched.begin()  # a reader has this one, and the server is not told
    node.require_session().abort(ListenerClosed("broken"))
    await node.connect()
    await becomes_true(lambda: server.ask("LLEN", "jobs") == JOBS - 2)


async def test_what_was_being_returned_as_the_connection_broke_keeps_its_order(node: RedisPubSubChannelLayer) -> None:
    got = await prefetch_from(node)
    queue, session = queue_of(node), node.require_session()
    queue.ready.append(queue.prefetched.begin()[1])  # its reader was cancelled
    session.executor(b"jobs").execute(encode_command("PING"))  # so that what follows is not sent in this turn
    node._queues._requeue(queue, session)
    session.abort(ListenerClosed("broken"))
    await node.connect()
    assert got + await take(node, JOBS - 1) == list(range(JOBS))


async def test_a_node_that_leaves_returns_what_it_has(
    node: RedisPubSubChannelLayer, server: brokers.Redis, connect: Connect
) -> None:
    got = await prefetch_from(node)
    await node.disconnect()
    assert server.ask("LLEN", "jobs") == JOBS - 1
    assert got + await take(await connect(server.url), JOBS - 1) == list(range(JOBS))


async def test_a_reader_that_is_cancelled_in_the_turn_in_which_it_gets_a_message(
    node: RedisPubSubChannelLayer,
) -> None:
    got = await prefetch_from(node)
    while len(got) < JOBS:
        for turns in range(4):
            reader = asyncio.ensure_future(node.take("jobs"))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            reader.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled():
                got.append(int(reader.result()))
        got += await take(node, min(1, JOBS - len(got)))
    assert got == list(range(JOBS))


async def test_a_purged_queue_is_empty_at_each_node(node: RedisPubSubChannelLayer, server: brokers.Redis) -> None:
    await prefetch_from(node)
    await node.purge("jobs")
    await becomes_true(lambda: not prefetched(node))
    assert server.ask("KEYS", "*jobs*") == []
    await put(node, range(1))
    assert await take(node) == [0]


async def test_a_notification_that_another_node_waits_for_nothing(node: RedisPubSubChannelLayer) -> None:
    calls = queue_of(node).number
    await node.require_session().execute(b"jobs", "PUBLISH", "{jobs}|messages", "wanted")
    await node.require_session().execute(b"jobs", "PUBLISH", "{jobs}|messages", "")
    await becomes_true(lambda: queue_of(node).notified)
    assert queue_of(node).number == calls


async def test_large_messages_are_not_prefetched(node: RedisPubSubChannelLayer) -> None:
    for _ in range(8):
        await node.put("jobs", b"0" * 600_000, **PLENTY)
    with anyio.fail_after(30):
        for _ in range(2):
            await node.take("jobs")
    queue_of(node).prefetched.messages.clear()
    await node.take("jobs")
    assert len(queue_of(node).prefetched.messages) <= 1


@pytest.mark.parametrize("value", ["x", "1 2", f"1 2 {'9' * 40}", "7 999 1", "inf 1 1"])
async def test_garbage_about_what_is_prefetched_disturbs_nobody(
    node: RedisPubSubChannelLayer, server: brokers.Redis, value: str
) -> None:
    fields = {"ahead": "1", "forged ahead": value, "forged 7/1": "x", "forged 8/1": "y", "nobody 1/1": "z"}
    with server.client() as client:
        client.hset("{jobs}|in flight", mapping=fields)
    await put(node, range(1))
    assert await take(node) == [0]
    await put(node, range(150))
    assert await take(node, 150) == list(range(150))
    reader = asyncio.ensure_future(node.take("jobs"))
    await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
    assert not set(server.ask("HKEYS", "{jobs}|in flight")) & {"forged ahead", "ahead"}
    await put(node, range(150, 151))
    assert int(await reader) == 150


async def test_a_server_that_does_not_note_what_a_reader_got_is_told_of(
    node: RedisPubSubChannelLayer, server: brokers.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await prefetch_from(node)
    server.ask("DEL", "{jobs}|in flight")
    server.ask("SET", "{jobs}|in flight", "of another program")
    assert await take(node) == [1]
    await becomes_true(lambda: "A message may be delivered to a second reader" in caplog.text)
    assert "WRONGTYPE" in caplog.text


def test_fewer_are_prefetched_for_readers_that_take_their_time() -> None:
    some = Prefetched(b"jobs")
    limits = []
    for quick in (True, True, True, True, True, True, False, False, True):
        some.adapt(100, quick=quick)
        limits.append(some.limit)
    assert limits == [1, 3, 7, 15, 31, 31, 15, 7, 15]
