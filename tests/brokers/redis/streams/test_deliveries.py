"""Consumer groups: each event to one consumer, again to another until one acknowledges it, and at last aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    Channel,
    ChannelLayerError,
    ListenerClosed,
    RedisStreamsChannelLayer,
)
from django_anyio_channels.brokers.common import deliveries
from django_anyio_channels.brokers.common.deliveries import Consumer
from django_anyio_channels.brokers.common.waiters import WaiterQueue
from django_anyio_channels.brokers.redis.connection import Connection
from django_anyio_channels.brokers.redis.streams.consumer_groups import group_source
from django_anyio_channels.hub.consumer_group import dead_letter_group
from django_anyio_channels.hub.sharding import shard_index
from tests.brokers.redis.conftest import becomes_true
from tests.support.brokers import redis as brokers
from tests.support.consumer_groups import TIME_LIMIT, messages, next_of

pytestmark = pytest.mark.anyio

SHORT = 1.0
"""Seconds after which what nobody acknowledged comes again, in tests that wait for it."""

Open = Callable[..., Awaitable[Channel]]


def layer_of(channel: Channel) -> RedisStreamsChannelLayer:
    assert isinstance(channel.layer, RedisStreamsChannelLayer)
    return channel.layer


@pytest.fixture
async def open_channel() -> AsyncIterator[Open]:
    """Opens Channels to a server's streams, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def connect(server: brokers.Redis, **options: Any) -> Channel:
            missed = options.pop("on_missed", None)
            layer = RedisStreamsChannelLayer(brokers.with_streams(server.url), probe_interval=1.0, **options)
            channel = await stack.enter_async_context(Channel(layer, on_missed=missed))
            await channel.connected()
            return channel

        yield connect


def workers_of(channel: Channel, name: str = "workers", ack: Any = "manual") -> Any:
    return channel.subscribe("jobs", consumer_group=name, ack=ack)


def pending(server: brokers.Redis, name: str = "workers") -> int:
    count = server.ask("ZCARD", key := f"{{jobs}}|pending of {name}")
    assert server.ask("HLEN", f"{key}, contents") == 2 * count, (
        "each delivery has its message and its count, and nothing is left"
    )
    return int(count)


def released(server: brokers.Redis) -> bool:
    """Whether the only pending delivery is visible to every node."""
    key = "{jobs}|pending of workers"
    return bool(server.ask("ZCOUNT", key, 0, 0) == server.ask("ZCARD", key) == 1)


# ---- one of them -------------------------------------------------------------------------------------------------


async def test_leaving_a_subscription_ends_its_readers(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server)
    async with anyio.create_task_group() as tasks:
        async with workers_of(channel) as reader:

            async def read() -> None:
                with pytest.raises(ListenerClosed, match="jobs is closed"):
                    await reader.receive()

            tasks.start_soon(read)
            await becomes_true(lambda: server.ask("PUBSUB", "NUMSUB", "{jobs}|pending of workers")[1])
    async with workers_of(channel) as reader:
        await channel.publish("jobs", 1)
        assert await messages(reader, 1) == [1]


async def test_a_closed_channel_ends_its_readers(server: brokers.Redis, open_channel: Open) -> None:
    layer = RedisStreamsChannelLayer(brokers.with_streams(server.url))
    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
        channel = await stack.enter_async_context(Channel(layer))

        async def read() -> None:
            async with workers_of(channel) as reader:
                assert [event async for event in reader] == []

        tasks.start_soon(read)
        await becomes_true(lambda: server.ask("PUBSUB", "NUMSUB", "{jobs}|pending of workers")[1])
        await stack.aclose()


async def cancelled_with_a_delivery(
    consumer: Consumer[Any], reading: asyncio.Task[Any], publishing: Awaitable[object]
) -> None:
    """Cancel a reader between the moment when it is given what is published, and its next step."""

    def dispatch_and_cancel() -> None:
        WaiterQueue.dispatch(consumer.waiters)
        reading.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consumer.waiters, "dispatch", dispatch_and_cancel)
        await publishing
        await asyncio.wait([reading])
    assert reading.cancelled()


async def test_a_reader_cancelled_with_a_delivery_returns_it(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server)
    layer = layer_of(channel)
    async with workers_of(channel) as reader:
        for how in ("and another takes it", "and it is released"):
            reading = asyncio.create_task(reader.receive())
            await becomes_true(lambda: any(consumer.waiters for consumer in layer._deliveries._consumers.values()))
            [consumer] = layer._deliveries._consumers.values()
            await cancelled_with_a_delivery(consumer, reading, channel.publish("jobs", how))
            if how == "and it is released":
                await becomes_true(lambda: released(server))
            event = await next_of(reader)
            assert (event.message, event.deliveries) == (how, 1)
            await event.ack()


async def test_a_consumer_is_not_closed_while_a_reader_has_a_delivery(
    server: brokers.Redis, open_channel: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_IDLE_SECONDS", 0.05)
    channel = await open_channel(server)
    layer = layer_of(channel)
    async with workers_of(channel) as reader:
        reading = asyncio.create_task(reader.receive())
        await becomes_true(lambda: any(consumer.waiters for consumer in layer._deliveries._consumers.values()))
        [consumer] = layer._deliveries._consumers.values()
        waiting_since = consumer.used
        await becomes_true(lambda: asyncio.get_running_loop().time() - waiting_since > 0.05)
        await cancelled_with_a_delivery(consumer, reading, channel.publish("jobs", 1))
        assert list(layer._deliveries._consumers.values()) == [consumer]
        assert await messages(reader, 1) == [1]


async def test_the_end_of_a_session_finds_a_reader_just_cancelled(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server)
    layer = layer_of(channel)
    async with workers_of(channel) as reader:
        reading = asyncio.create_task(reader.receive())
        await becomes_true(lambda: any(consumer.waiters for consumer in layer._deliveries._consumers.values()))
        reading.cancel()
        await layer.disconnect()
        await asyncio.wait([reading])
        assert reading.cancelled()


# ---- again -------------------------------------------------------------------------------------------------------


async def test_a_late_acknowledgement_counts_too(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server, redeliver_after=SHORT)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", "slow work")
        first = await next_of(reader)
        again = await next_of(reader)
        assert again.deliveries == 2
        both = [first.ack(), again.ack()]
        for ack in both:
            await ack
        await channel.publish("jobs", "next")
        assert (await next_of(reader)).message == "next"
        assert pending(server) == 1
        assert len(layer_of(channel)._deliveries._pending) == 1


async def test_poison_that_cannot_be_put_aside_comes_again(
    own_server: brokers.Redis, open_channel: Open, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await open_channel(own_server, redeliver_after=SHORT, deliver_at_most=1)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", "poison")
        await next_of(reader)
        own_server.ask("ACL", "SETUSER", "default", "-xadd")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(messages, reader, 1)
            await becomes_true(lambda: "cannot be sent to the dead letters" in caplog.text)
            own_server.ask("ACL", "SETUSER", "default", "+xadd")
            await becomes_true(lambda: pending(own_server) == 0)
            await channel.publish("jobs", "the next")
        assert [event.message for event in await channel.history("jobs.workers.dead")] == ["poison"]


# ---- what is kept, and what is reported ----------------------------------------------------------------------------


async def test_what_is_pending_outlives_the_history(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server, redeliver_after=SHORT, history_length=1)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", "pending")
        await next_of(reader)
        server.ask("DEL", "{jobs}|history")
        assert await channel.history("jobs") == []
        again = await next_of(reader)
        assert (again.message, again.deliveries) == ("pending", 2)


async def test_unread_work_that_the_history_lost_is_reported(server: brokers.Redis, open_channel: Open) -> None:
    missed: list[str] = []
    channel = await open_channel(server, history_length=10, on_missed=lambda group, seconds: missed.append(group))
    async with workers_of(channel) as reader:
        for number in range(500):
            await channel.publish("jobs", number)
        first = (await next_of(reader)).message
        assert missed == ["jobs"]
        assert 0 < first < 490
        assert await messages(reader, 499 - first) == list(range(first + 1, 500))
        assert missed == ["jobs"]
        await channel.publish("jobs", "lost")
        server.ask("DEL", "{jobs}|history")
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(messages, reader, 1)
                await becomes_true(lambda: missed == ["jobs", "jobs"])
                await channel.publish("jobs", "goes on")


async def test_a_server_that_has_lost_its_memory(own_server: brokers.Redis, open_channel: Open) -> None:
    missed: list[str] = []
    channel = await open_channel(own_server, on_missed=lambda group, seconds: missed.append(group))
    async with workers_of(channel) as reader:
        await channel.publish("jobs", "lost")
        taken = await next_of(reader)
        await run_sync(own_server.server.kill)
        await run_sync(own_server.server.start)
        await channel.connected()
        await channel.publish("jobs", "after")
        assert await messages(reader, 1) == ["after"]
        assert "jobs" in missed
        await taken.ack()


async def test_purge_forgets_what_is_pending(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server, redeliver_after=SHORT)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", "forgotten")
        taken = await next_of(reader)
        await channel.queues.purge("jobs")
        assert pending(server) == 0
        await channel.publish("jobs", "new")
        assert await messages(reader, 1) == ["new"]
        await taken.ack()


async def test_purge_knows_the_keys_of_any_name(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server)
    for group in ("jobs", "{jobs", "jobs}|x"):
        async with channel.subscribe(group, consumer_group="a|b~ {c}", ack="manual") as reader:
            await channel.publish(group, "forgotten")
            await next_of(reader)
    assert len(held := [key for key in server.ask("KEYS", "*") if "pending" in key and "in flight" not in key]) == 6, (
        held
    )
    await channel.queues.purge("jobs")
    held = [key for key in server.ask("KEYS", "*") if "pending" in key and "in flight" not in key]
    assert len(held) == 2, held
    await channel.queues.purge("{jobs")
    assert not [key for key in server.ask("KEYS", "*") if "pending" in key and "in flight" not in key]


async def test_a_message_that_somebody_removed_is_left_out(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server, redeliver_after=SHORT)
    async with workers_of(channel) as reader:
        for message in ("removed", "kept"):
            await channel.publish("jobs", message)
        removed, kept = await next_of(reader), await next_of(reader)
        server.ask("HDEL", "{jobs}|pending of workers, contents", removed.position or "")
        again = await next_of(reader)
        assert (again.message, again.position) == ("kept", kept.position)


# ---- sessions ----------------------------------------------------------------------------------------------------


async def test_the_end_of_an_earlier_session_that_is_reported_late_ends_no_reader(
    server: brokers.Redis, open_channel: Open
) -> None:
    channel = await open_channel(server)
    async with workers_of(channel) as reader, anyio.create_task_group() as tasks:
        tasks.start_soon(messages, reader, 1)
        await becomes_true(lambda: server.ask("PUBSUB", "NUMSUB", "{jobs}|pending of workers")[1])
        layer_of(channel)._on_end(ListenerClosed("late"))
        await channel.publish("jobs", 1)


async def test_an_acknowledgement_that_finds_no_connection_is_repeated(
    own_server: brokers.Redis, open_channel: Open
) -> None:
    channel = await open_channel(own_server)
    async with workers_of(channel) as reader:
        for number in range(3):
            await channel.publish("jobs", number)
        events = [await next_of(reader) for _ in range(3)]
        own_server.server.freeze()
        on_its_way = events[0].ack()
        commands = layer_of(channel).require_session().executor(b"jobs")
        assert isinstance(commands, Connection)
        commands.end("as if it had broken")
        at_once = events[1].ack()
        await becomes_true(lambda: channel.outages)
        when_it_is_down = events[2].ack()
        for ack in (on_its_way, at_once, when_it_is_down):
            with pytest.raises(ListenerClosed):
                await ack
        own_server.server.thaw()
        await becomes_true(lambda: pending(own_server) == 0)


async def test_a_call_whose_reply_was_lost_is_repeated(server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(server)
    layer = layer_of(channel)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", 1)
        source = group_source(layer._history, b"jobs", "workers")
        await source.deliver(layer.require_session(), layer._deliveries._node, 1, 1, 60.0)
        event = await next_of(reader)
        assert (event.message, event.deliveries) == (1, 1), "nobody had it before"


async def test_an_answer_that_came_for_nobody_is_released_by_the_next_session(
    own_server: brokers.Redis, open_channel: Open
) -> None:
    channel = await open_channel(own_server)
    layer = layer_of(channel)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", 0)
        await messages(reader, 1)
        await channel.publish("jobs", 1)
        [consumer] = layer._deliveries._consumers.values()
        # As if the connection had broken after the server got the call, and the reader had gone meanwhile.
        session, manager = layer.require_session(), layer._deliveries
        manager._calls += 1
        await consumer.source.deliver(session, manager._node, manager._calls, 1, 60.0)
        consumer.number, consumer.answered = manager._calls, False
        session.abort(ListenerClosed("as if the connection had broken"))
        await becomes_true(lambda: channel.outages)
        await becomes_true(lambda: released(own_server))
        event = await next_of(reader)
        assert (event.message, event.deliveries) == (1, 1)


async def test_a_consumer_without_readers_is_closed(
    server: brokers.Redis, open_channel: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_IDLE_SECONDS", 0.05)
    channel = await open_channel(server)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", 1)
        await messages(reader, 1)
        await becomes_true(lambda: not server.ask("PUBSUB", "NUMSUB", "{jobs}|pending of workers")[1])
        assert layer_of(channel)._deliveries._consumers == {}
        await channel.publish("jobs", 2)
        assert await messages(reader, 1) == [2]


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["-set", "-xrange", "-subscribe"])
async def test_a_refused_delivery_raises(own_server: brokers.Redis, open_channel: Open, what: str) -> None:
    channel = await open_channel(own_server)
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(workers_of(channel))
        await channel.publish("jobs", 1)
        own_server.ask("ACL", "SETUSER", "default", what)
        with pytest.raises(ChannelLayerError, match=r"refuses: .*(can.t run|permission)"):
            await next_of(reader)
        own_server.ask("ACL", "SETUSER", "default", what.replace("-", "+"))
        assert await messages(reader, 1) == [1]


async def test_a_refused_join_raises(own_server: brokers.Redis, open_channel: Open) -> None:
    channel = await open_channel(own_server)
    async with channel.subscribe("jobs"):
        own_server.ask("ACL", "SETUSER", "default", "-set")
        with pytest.raises(ChannelLayerError, match=r"refuses: .*(can.t run|permission)"):
            async with workers_of(channel):
                raise AssertionError("it was accepted")


async def test_a_refused_acknowledgement_raises_and_a_refused_release_is_logged(
    own_server: brokers.Redis, open_channel: Open, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await open_channel(own_server)
    async with workers_of(channel) as reader:
        await channel.publish("jobs", 1)
        event = await next_of(reader)
        own_server.ask("ACL", "SETUSER", "default", "-zrem")
        with pytest.raises(ChannelLayerError, match=r"refuses: .*(can.t run|permission)"):
            await event.ack()
        await channel.publish("jobs", 2)
        await next_of(reader)
        own_server.ask("ACL", "SETUSER", "default", "-zadd")
        await channel.layer.disconnect()
    assert "1 messages of jobs cannot be released, and are delivered again later" in caplog.text


async def test_over_several_servers_the_groups_own_one_does_it(server: brokers.Redis) -> None:
    url = brokers.with_streams(server.url)
    layers = [RedisStreamsChannelLayer(url, consumer_group="workers") for _ in range(2)]
    async with (
        Channel(layers) as channel,
        channel.subscribe("jobs") as one,
        channel.subscribe("more jobs") as two,
    ):
        await channel.publish("jobs", 1)
        await channel.publish("more jobs", 2)
        assert (await messages(one, 1), await messages(two, 1)) == ([1], [2])


async def test_a_dead_letter_goes_to_the_server_that_has_its_group(server: brokers.Redis) -> None:
    url = brokers.with_streams(server.url)
    layers = [
        RedisStreamsChannelLayer(f"{url}/{database}", redeliver_after=0.05, deliver_at_most=1) for database in range(2)
    ]
    group = next(
        name
        for name in map(str, range(100))
        if shard_index(name, 2) != shard_index(dead_letter_group(name, "workers"), 2)
    )
    async with Channel(layers) as channel, channel.subscribe(group, consumer_group="workers", ack="manual") as reader:
        await channel.publish(group, "poison")
        await next_of(reader)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.receive)
            with anyio.fail_after(TIME_LIMIT):
                while not (letters := await channel.history(dead_letter_group(group, "workers"))):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert [letter.message for letter in letters] == ["poison"]


@pytest.mark.parametrize("options", [{"redeliver_after": 0.0}, {"deliver_at_most": 0}])
def test_never_and_at_once_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has an invalid value"):
        RedisStreamsChannelLayer("redis+streams://localhost", **options)
