"""Queues on Redis: what the contract suite of all layers does not ask."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels.brokers.redis import queues as redis_queues
from django_anyio_channels.brokers.redis import readers as redis_readers
from django_anyio_channels.brokers.redis.keys import bindings_marker, bound_groups_key
from django_anyio_channels.brokers.redis.layer import RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis.queues import Queues
from django_anyio_channels.brokers.redis.readers import Queue
from django_anyio_channels.brokers.redis.streams.layer import RedisStreamsChannelLayer
from django_anyio_channels.core.exceptions import ChannelLayerError, ListenerClosed, QueueFull
from tests.support.brokers import redis as brokers

from .conftest import Connect, becomes_true, publish

pytestmark = pytest.mark.anyio

MARKER = bindings_marker(b"").decode()
PLENTY: Any = {"capacity": 100_000, "expiry": 60.0}


async def take(layer: RedisPubSubChannelLayer, queue: str = "jobs") -> bytes:
    with anyio.fail_after(30):
        return await layer.take(queue)


async def test_each_of_5000_jobs_goes_to_one_of_several_readers(server: brokers.Redis, connect: Connect) -> None:
    sender, *workers = [await connect(server.url) for _ in range(4)]
    got: list[list[int]] = [[] for _ in range(6)]

    async def work(layer: RedisPubSubChannelLayer, mine: list[int]) -> None:
        while True:
            mine.append(int(await layer.take("jobs")))
            if sum(map(len, got)) == 5000:
                tasks.cancel_scope.cancel()

    async def send(start: int) -> None:
        for number in range(start, start + 500):
            await sender.put("jobs", b"%d" % number, **PLENTY)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for index, mine in enumerate(got):
                tasks.start_soon(work, workers[index % 3], mine)
            for start in range(0, 5000, 500):
                tasks.start_soon(send, start)
    assert sorted(number for mine in got for number in mine) == list(range(5000))
    assert all(got), "every reader had work"


async def test_cancelled_readers_lose_nothing_and_keep_the_order(server: brokers.Redis, connect: Connect) -> None:
    sender, reader = await connect(server.url), await connect(server.url)
    got: list[int] = []

    async def send() -> None:
        for number in range(300):
            await sender.put("jobs", b"%d" % number, **PLENTY)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            while len(got) < 300:
                with anyio.move_on_after(random.uniform(0, 0.001)):
                    got.append(int(await reader.take("jobs")))
    assert got == list(range(300))


async def test_many_readers_cancelled_at_once_lose_nothing(server: brokers.Redis, connect: Connect) -> None:
    sender, reader, other = [await connect(server.url) for _ in range(3)]
    got: list[int] = []

    async def work() -> None:
        got.append(int(await reader.take("jobs")))

    for start in range(0, 300, 20):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(work)
            for number in range(start, start + 20):
                await sender.put("jobs", b"%d" % number, **PLENTY)
            tasks.cancel_scope.cancel()
    while len(got) < 300:
        got.append(int(await take(other)))
    assert sorted(got) == list(range(300))


async def test_a_waiting_reader_does_not_poll(server: brokers.Redis, connect: Connect) -> None:
    reader, sender = await connect(server.url), await connect(server.url)

    def commands() -> int:
        return int(server.ask("INFO", "stats")["total_commands_processed"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.take, "jobs")
        await anyio.wait_all_tasks_blocked()
        await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
        before = commands()
        await anyio.sleep(0.5)
        assert commands() - before <= 6, "only what asks for the count, and probes"
        await sender.put("jobs", b"x", **PLENTY)


async def test_capacity_and_expiry(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    for number in range(3):
        await layer.put("jobs", b"%d" % number, capacity=3, expiry=2.0 if number < 2 else 60)
    with pytest.raises(QueueFull, match=r"Queue jobs is full \(capacity 3\)"):
        await layer.put("jobs", b"3", capacity=3, expiry=60)
    await anyio.sleep(2.1)
    await layer.put("jobs", b"4", capacity=3, expiry=60)
    assert [await take(layer), await take(layer)] == [b"2", b"4"]


async def test_nothing_stays_on_the_server(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await layer.put("jobs", b"x", capacity=10, expiry=2.0)
    await layer.bind("room", "jobs", capacity=10, expiry=2.0, lifetime=3.0)
    keys = server.ask("KEYS", "*")
    assert set(keys) == {"jobs", "{room}|queues", "{jobs}|groups", MARKER}
    assert all(0 < server.ask("PTTL", key) <= 6000 for key in keys)


async def test_bound_queues_get_what_is_published(server: brokers.Redis, connect: Connect) -> None:
    one, other = await connect(server.url), await connect(server.url)
    await one.bind("room", "jobs", capacity=2, expiry=60, lifetime=60)
    for number in range(3):
        await publish(other, "room", b"%d" % number)
    assert [await take(one), await take(other)] == [b"0", b"1"]
    await one.unbind("room", "jobs")
    await one.unbind("room", "jobs")
    await publish(other, "room", b"after")
    await other.put("jobs", b"last", **PLENTY)
    assert await take(one) == b"last"


async def test_a_binding_ends_after_its_lifetime(
    server: brokers.Redis, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    layer = await connect(server.url)
    await layer.bind("room", "long", capacity=9, expiry=60, lifetime=60)
    await layer.bind("room", "short", capacity=9, expiry=60, lifetime=0.1)
    await anyio.sleep(0.2)
    await publish(layer, "room", b"x")
    assert await take(layer, "long") == b"x"
    assert server.ask("LLEN", "short") == 0
    assert "is full" not in caplog.text


async def test_the_groups_of_a_queue_are_forgotten_when_their_bindings_have_ended(
    server: brokers.Redis, connect: Connect
) -> None:
    layer = await connect(server.url)
    groups = bound_groups_key(b"jobs").decode()
    server.ask("SET", groups, "of another program")
    for number in range(20):
        await layer.bind(f"left {number}", "jobs", lifetime=0.05, **PLENTY)
    with anyio.fail_after(30):
        while server.ask("ZCARD", groups) > 1:
            await layer.bind("room", "jobs", lifetime=60, **PLENTY)
    assert server.ask("ZRANGE", groups, 0, -1) == ["room"]
    assert 50_000 < server.ask("PTTL", groups) <= 60_000
    await layer.unbind("room", "jobs")
    assert server.ask("EXISTS", groups) == 0


@pytest.mark.parametrize("prefix", ["asgi:q:", "we*ird[1]{x}\\:"])
async def test_purge_empties_what_begins_with_a_prefix_and_nothing_else(
    server: brokers.Redis, connect: Connect, prefix: str
) -> None:
    layer = await connect(server.url)
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(2500):  # more than the server looks through at once
            pipeline.rpush(f"another {number}", "x")
        pipeline.execute()
    server.ask("HSET", f"{prefix}hash of another program", "a", "b")
    for name in (f"{prefix}a", f"{prefix}b", "weird1{x}:a", "other"):
        await layer.put(name, b"x", **PLENTY)
        await layer.bind("room", name, lifetime=60, **PLENTY)
    await layer.purge(prefix)
    await publish(layer, "room", b"y")
    lengths = {name: server.ask("LLEN", name) for name in (f"{prefix}a", f"{prefix}b", "weird1{x}:a", "other")}
    assert server.ask("HLEN", f"{prefix}hash of another program") == 1
    assert lengths == {f"{prefix}a": 0, f"{prefix}b": 0, "weird1{x}:a": 2, "other": 2}


@pytest.mark.parametrize(("ours", "theirs"), [("a:", "{a:"), ("x}:", "{x}:"), ("{x}:", "x}:")])
async def test_purge_takes_nothing_of_a_prefix_that_differs_by_braces(
    server: brokers.Redis, connect: Connect, ours: str, theirs: str
) -> None:
    layer = await connect(server.url)
    for prefix in (ours, theirs):
        await layer.bind("room", f"{prefix}q", lifetime=60, **PLENTY)
        await layer.put(f"{prefix}q", b"x", **PLENTY)
    await layer.purge(ours)
    assert sorted(server.ask("KEYS", "*q*")) == sorted(
        [f"{theirs}q", bound_groups_key(f"{theirs}q".encode()).decode(), "{room}|queues"]
    )
    assert server.ask("HKEYS", "{room}|queues") == [f"{theirs}q"]
    await layer.purge(theirs)
    assert server.ask("KEYS", "*") == [MARKER]


@pytest.mark.parametrize("stamp", [b"1e300        ", b"inf          ", b"0x1p999      "])
async def test_forged_stamps_multiply_nothing(server: brokers.Redis, connect: Connect, stamp: bytes) -> None:
    """The server gives up in the middle of a script that calculates with such a number, and undoes nothing."""
    layer = await connect(server.url)
    with server.client(decode_responses=False) as raw:
        raw.rpush("jobs", stamp + b"forged")
    for message in (b"1", b"2"):
        await layer.put("jobs", message, **PLENTY)
    readers = [asyncio.ensure_future(layer.take("jobs")) for _ in range(3)]
    await asyncio.sleep(0)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    await layer.disconnect()  # gives back what is on its way
    await layer.connect()
    assert [await take(layer) for _ in range(2)] == [b"1", b"2"]
    assert server.ask("LLEN", "jobs") == 0


async def test_foreign_garbage_on_our_keys_and_topics_kills_nobody(server: brokers.Redis, connect: Connect) -> None:
    raw = server.client(decode_responses=False)
    raw.set(MARKER, "announced", px=60_000)
    layer = await connect(server.url)
    await layer.subscribe("room")
    raw.set("jobs", "a string where a list should be")
    raw.set("{room}|queues", "a string where a hash should be")
    await layer.put("jobs", b"1", **PLENTY)
    assert await take(layer) == b"1"
    await layer.publish("room", b"0")
    raw.delete("{room}|queues")
    raw.hset("{room}|queues", mapping={"jobs": "no terms at all", "other": "1 2"})
    raw.rpush("jobs", b"\xff\x00", b"", b"x" * 1_000_000)
    raw.publish("room", b"\xff" * 1_000_000)
    await layer.publish("room", b"2")
    await layer.put("jobs", b"3", **PLENTY)
    assert await take(layer) == b"3"
    with anyio.fail_after(30):
        assert [(await layer.next_published()).message for _ in range(3)] == [b"0", b"\xff" * 1_000_000, b"2"]
    raw.delete("jobs")
    raw.hset("jobs", "a", "hash")
    raw.close()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, layer)
        await anyio.wait_all_tasks_blocked()
        await layer.put("jobs", b"4", **PLENTY)


async def test_scripts_that_the_server_forgot_are_told_again(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    for message in (b"1", b"2"):
        server.ask("SCRIPT", "FLUSH")
        await layer.put("jobs", message, **PLENTY)
        server.ask("SCRIPT", "FLUSH")
        assert await take(layer) == message


async def test_a_reader_cancelled_with_a_message_in_its_hands_puts_it_back(
    server: brokers.Redis, connect: Connect
) -> None:
    """The answers to a put and to a take come in one packet; who put cancels who took before it runs again."""
    layer = await connect(server.url)
    outcomes: list[str] = []

    async def reader(scope: anyio.CancelScope) -> None:
        with scope:
            await layer.take("jobs")
            outcomes.append("taken")

    async def writer(scope: anyio.CancelScope) -> None:
        await layer.put("jobs", b"job", **PLENTY)
        scope.cancel()

    for _ in range(5):
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(layer.publish, "warm", b"up")
            tasks.start_soon(layer.publish, "warm", b"up")
            tasks.start_soon(writer, scope)
            tasks.start_soon(reader, scope)
        if not outcomes:
            assert await take(layer) == b"job"
        outcomes.clear()


async def test_queues_that_nobody_reads_any_more_are_forgotten(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url, probe_interval=0.4)
    await layer.put("read", b"x", **PLENTY)
    assert await take(layer, "read") == b"x"
    with anyio.move_on_after(0.1):
        await layer.take("waited for")
    assert "{waited for}|messages" in server.ask("PUBSUB CHANNELS")
    await becomes_true(lambda: "{waited for}|messages" not in server.ask("PUBSUB CHANNELS"))
    await layer.put("waited for", b"y", **PLENTY)
    assert await take(layer, "waited for") == b"y"


LIMITED = (
    "ACL",
    "SETUSER",
    "limited",
    "on",
    ">secret",
    "+@all",
    "resetkeys",
    "resetchannels",
    "&anyio-channels:nodes*",
)


async def test_a_refused_take_says_so(server: brokers.Redis, connect: Connect) -> None:
    server.ask(*LIMITED, "~mine*")
    layer = await connect(server.url, username="limited", password="secret")
    with anyio.fail_after(30), pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.take("not mine")
    with pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.put("not mine", b"x", **PLENTY)
    with pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.unbind("room", "not mine")


async def test_a_reader_that_may_not_hear_of_messages_is_told_so(server: brokers.Redis, connect: Connect) -> None:
    server.ask(*LIMITED, "~*")
    layer = await connect(server.url, username="limited", password="secret")
    with anyio.fail_after(30), pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.take("jobs")


async def test_a_refused_binding_says_so(server: brokers.Redis, connect: Connect) -> None:
    server.ask(*LIMITED, "~{jobs}*")
    layer = await connect(server.url, username="limited", password="secret")
    with pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.bind("room", "jobs", lifetime=60, **PLENTY)


async def test_what_a_script_may_not_do_is_told_with_its_cure(server: brokers.Redis, connect: Connect) -> None:
    server.ask(*LIMITED, "~*", "&{jobs}*", "-rpush")
    layer = await connect(server.url, username="limited", password="secret")
    with pytest.raises(
        ChannelLayerError, match=r"run .*comm.*(ACL SETUSER user \+rpush|Allow the command, which `ACL LOG` names)"
    ):
        await layer.put("jobs", b"x", **PLENTY)
    assert server.ask("ACL LOG", 1)[0]["object"] == "rpush"


@pytest.mark.parametrize("forgery", [["SET", "{room}|queues", "x"], ["ACL", "SETUSER", "limited", "-hgetall"]])
async def test_bound_queues_that_cannot_be_found_out_are_told_of(
    server: brokers.Redis, connect: Connect, forgery: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.ask(*LIMITED, "~*", "&*", "+@all")
    server.ask("SET", MARKER, "announced", "PX", 60_000)
    server.ask(*forgery)
    for url in (server.url, brokers.with_streams(server.url)):
        caplog.clear()
        layer = (RedisStreamsChannelLayer if "streams" in url else RedisPubSubChannelLayer)(
            url, username="limited", password="secret"
        )
        await layer.connect()
        await layer.subscribe("room")
        await layer.publish("room", b"x")
        assert (await layer.next_published()).message == b"x"
        await layer.disconnect()
        assert "The queues that are bound to room cannot be found, so they miss the message" in caplog.text


async def test_leaving_waits_no_longer_than_the_link_lives(own_server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(own_server.url, probe_interval=60)
    own_server.server.freeze()

    async def receive_job() -> None:
        with pytest.raises(ListenerClosed, match="was disconnected"):
            await layer.take("jobs")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive_job)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(layer.disconnect)
            await anyio.wait_all_tasks_blocked()
            own_server.server.kill()


async def test_a_reader_that_waits_survives_the_loss_of_everything(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    taken: list[bytes] = []

    async def take_one() -> None:
        taken.append(await take(layer))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_one)
        await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
        server.ask("FLUSHALL")
        await layer.put("jobs", b"job", **PLENTY)
    assert taken == [b"job"]


async def test_garbage_where_the_queues_keep_their_books_kills_nobody(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, layer)
        await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
        with server.client(decode_responses=False) as raw:
            raw.lpush("{jobs}|waiting", b"\xff\x00", b"nobody 7", b"no number", b"x" * 100_000)
            for channel in server.ask("PUBSUB CHANNELS", "{jobs}|*"):
                raw.publish(channel, b"\xff" * 1_000_000)
        await layer.put("jobs", b"1", **PLENTY)
    for wrong in ("{jobs}|waiting", "jobs"):
        server.ask("DEL", wrong)
        server.ask("SET", wrong, "a string")
        await layer.put("jobs", b"2", **PLENTY)
        assert await take(layer) == b"2"


async def test_what_is_given_back_comes_first_although_the_server_does_not_know_how(
    server: brokers.Redis, connect: Connect
) -> None:
    layer = await connect(server.url)
    server.ask("SCRIPT", "FLUSH")
    for number in range(20):
        await layer.put("jobs", b"%d" % number, **PLENTY)
    got = [await take(layer)]
    queue = layer._queues._queues[b"jobs"]
    while not queue.ready:
        # The first one's answer has the next two asked for, who have gone when the messages come.
        first, *others = [asyncio.ensure_future(layer.take("jobs")) for _ in range(3)]
        got.append(await first)
        for other in others:
            other.cancel()
        found = await asyncio.gather(*others, return_exceptions=True)
        got.extend(message for message in found if isinstance(message, bytes))
        await becomes_true(lambda: queue.answered)
    with anyio.fail_after(30):
        while not queue.requeueing:
            await anyio.lowlevel.checkpoint()
    while len(got) < 20:
        got.append(await take(layer))
    assert got == [b"%d" % number for number in range(20)]


async def test_what_is_forgotten_here_between_two_messages_is_not_taken_for_the_same_call_by_the_server(
    server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_queues, "REQUEUE_DELAY", 0.2)
    layer = await connect(server.url)
    for number in range(3):
        message = b"%d" % number
        reader = asyncio.ensure_future(layer.take("jobs"))
        await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
        # It goes as the message comes, which is given back.
        reader.cancel()
        await layer.put("jobs", message, **PLENTY)
        await becomes_true(lambda: server.ask("LLEN", "jobs") == 1)
        assert await take(layer) == message
        for _ in range(2):
            layer._queues.prune()
        assert not layer._queues._queues


async def test_what_was_on_its_way_to_a_node_that_died_does_not_stay_for_ever(
    server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_readers, "INFLIGHT_TTL_MS", 500)
    dead, alive = await connect(server.url), await connect(server.url)
    await dead.put("jobs", b"x", **PLENTY)
    assert await take(dead, "jobs") == b"x"
    fields = len(server.ask("HKEYS", "{jobs}|in flight"))

    async def work() -> bool:
        for _ in range(50):
            await alive.put("jobs", b"y", **PLENTY)
            await take(alive, "jobs")
        return len(server.ask("HKEYS", "{jobs}|in flight")) <= fields

    with anyio.fail_after(30):
        while not await work():
            pass


async def test_a_call_that_a_reader_made_just_now_is_not_ended() -> None:
    queues, queue = Queues(), Queue(b"jobs")
    queues._session = cast(Any, object())
    queue.answered, queue.used = False, asyncio.get_running_loop().time()
    queues._requeue_if_idle(queue)
    assert queue.idle_timer is not None
    queue.idle_timer.cancel()
