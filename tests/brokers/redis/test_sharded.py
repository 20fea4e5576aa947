"""One layer over two and three servers: each route, and what the death of one means to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    AnyioChannelLayer,
    Channel,
    ChannelLayerError,
    DeliveryUnknown,
    ListenerClosed,
    RedisPubSubChannelLayer,
)
from django_anyio_channels.hub.sharding import shard_index
from tests.support.brokers import redis as brokers

from .conftest import becomes_true

pytestmark = pytest.mark.anyio

GROUPS = [f"room-{number}" for number in range(24)]
PLENTY: dict[str, Any] = {"capacity": 100, "expiry": 60.0}


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[brokers.Redis, ...]]:
    made = tuple(brokers.plain("valkey") for _ in range(3))
    with brokers.running(*made):
        yield made


@pytest.fixture(params=[2, 3])
def servers(request: pytest.FixtureRequest, three: tuple[brokers.Redis, ...]) -> tuple[brokers.Redis, ...]:
    """Two or three servers, empty."""
    for server in three:
        server.ask("FLUSHALL")
    return three[: request.param]


def layers_of(servers: tuple[brokers.Redis, ...]) -> list[RedisPubSubChannelLayer]:
    return [RedisPubSubChannelLayer(each.url, probe_interval=1.0) for each in servers]


def name_at(servers: tuple[brokers.Redis, ...], index: int, beginning: str) -> str:
    """A name that the server at this place has."""
    names = (f"{beginning}{number}" for number in range(1000))
    return next(name for name in names if shard_index(name, len(servers)) == index)


@asynccontextmanager
async def processes(servers: tuple[brokers.Redis, ...], count: int) -> AsyncIterator[list[AnyioChannelLayer]]:
    made = [AnyioChannelLayer(url=[each.url for each in servers]) for _ in range(count)]
    try:
        with anyio.fail_after(30):
            yield made
    finally:
        for layer in made:
            await layer.close()


def channels(server: brokers.Redis, beginning: str) -> set[str]:
    """What is subscribed to at a server."""
    return set(server.ask("PUBSUB CHANNELS", f"{beginning}*"))


# ---- each route ------------------------------------------------------------------------------------------------------


async def test_groups_are_spread_and_reach_everybody(servers: tuple[brokers.Redis, ...]) -> None:
    async with processes(servers, 2) as (one, other):
        names = [await layer.new_channel() for layer in (one, one, other)]
        for group in GROUPS:
            for layer, name in zip((one, one, other), names, strict=True):
                await layer.group_add(group, name)
        at = [channels(server, "asgi:g:") for server in servers]
        assert all(at)
        assert sorted(name for found in at for name in found) == sorted(f"asgi:g:{group}" for group in GROUPS)
        for sender in (one, other):
            for group in GROUPS:
                await sender.group_send(group, {"type": "x", "group": group})
        for layer, name in zip((one, one, other), names, strict=True):
            got = [(await layer.receive(name))["group"] for _ in range(2 * len(GROUPS))]
            assert sorted(got) == sorted(2 * GROUPS)


async def test_direct_messages_go_to_the_right_server(servers: tuple[brokers.Redis, ...]) -> None:
    """`channels_redis` sends half or two thirds of them to the wrong one (channels_redis#221)."""
    async with processes(servers, 4) as layers:
        names = [(layer, await layer.new_channel()) for layer in layers for _ in range(10)]
        for sender in layers:
            for _, name in names:
                await sender.send(name, {"type": "x", "to": name})
        for owner, name in names:
            assert [await owner.receive(name) for _ in layers] == 4 * [{"type": "x", "to": name}]
        inboxes = [channels(server, "asgi:i:") for server in servers]
        assert sum(len(found) for found in inboxes) == 4


async def test_normal_channels_are_spread_and_each_message_is_read_once(servers: tuple[brokers.Redis, ...]) -> None:
    async with processes(servers, 2) as (one, other):
        jobs = [f"job-{number}" for number in range(16)]
        for job in jobs:
            for number in range(5):
                await one.send(job, {"type": "x", "n": number})
        lengths = [{key: server.ask("LLEN", key) for key in server.ask("KEYS", "asgi:q:*")} for server in servers]
        assert all(lengths)
        assert sorted(key for found in lengths for key in found) == sorted(f"asgi:q:{job}" for job in jobs)
        assert all(length == 5 for found in lengths for length in found.values())
        for job in jobs:
            assert [(await (one, other)[n % 2].receive(job))["n"] for n in range(5)] == [0, 1, 2, 3, 4]


async def test_normal_channels_in_groups_of_other_servers(servers: tuple[brokers.Redis, ...]) -> None:
    async with processes(servers, 2) as (one, other):
        jobs = [f"job-{number}" for number in range(8)]
        for group in GROUPS[:8]:
            for job in jobs:
                await one.group_add(group, job)
        for number, group in enumerate(GROUPS[:8]):
            await other.group_send(group, {"type": "x", "n": number})
        for job in jobs:
            # In the order sent, although the groups are at different servers.
            assert [(await one.receive(job))["n"] for _ in range(8)] == list(range(8))
        for group in GROUPS[:8]:
            for job in jobs:
                await other.group_discard(group, job)
            await one.group_send(group, {"type": "after"})
        for job in jobs:
            await one.send(job, {"type": "end"})
            assert await other.receive(job) == {"type": "end"}


async def test_group_add_for_another_process(servers: tuple[brokers.Redis, ...]) -> None:
    async with processes(servers, 3) as (one, other, third):
        names = [(layer, await layer.new_channel()) for layer in (one, other) for _ in range(5)]
        for group in GROUPS[:8]:
            for _, name in names:
                await third.group_add(group, name)
            await third.group_send(group, {"type": "x", "group": group})
            for _, name in names:
                await third.group_discard(group, name)
            await third.group_send(group, {"type": "nobody hears this"})
        for layer, name in names:
            assert sorted([(await layer.receive(name))["group"] for _ in range(8)]) == sorted(GROUPS[:8])
            await third.send(name, {"type": "end"})
            assert await layer.receive(name) == {"type": "end"}


async def test_flush_empties_every_server_and_every_process(servers: tuple[brokers.Redis, ...]) -> None:
    async with processes(servers, 3) as (one, other, third):
        name = await other.new_channel()
        for group in GROUPS:
            await other.group_add(group, name)
            await third.group_add(group, f"job-{group}")
            await one.group_send(group, {"type": "old"})
        assert all(server.ask("KEYS", "asgi:q:*") for server in servers)
        await one.flush()
        assert [server.ask("KEYS", "*asgi*") for server in servers] == [[]] * len(servers)
        for group in GROUPS:
            await one.group_send(group, {"type": "nobody is there"})
        await one.send(name, {"type": "new"})
        assert await other.receive(name) == {"type": "new"}


async def test_a_pattern_hears_every_server_once(servers: tuple[brokers.Redis, ...]) -> None:
    async with (
        Channel(layers_of(servers)) as channel,
        Channel(layers_of(servers)) as other,
        channel.subscribe(pattern="room-*") as subscriber,
    ):
        with anyio.fail_after(30):
            for group in GROUPS:
                await other.publish(group, group)
            events = [await anext(subscriber) for _ in GROUPS]
            assert sorted(event.message for event in events) == sorted(GROUPS)
            assert channel.subscriptions == len(servers)
            await channel.connected()


# ---- one server is gone ----------------------------------------------------------------------------------------------


async def test_the_death_of_one_server_is_no_matter_of_the_others(servers: tuple[brokers.Redis, ...]) -> None:
    gaps: list[float] = []
    layers = layers_of(servers)
    dead, living = name_at(servers, 0, "room-"), name_at(servers, 1, "room-")
    async with (
        Channel(layers, on_gap=gaps.append) as channel,
        Channel(layers_of(servers)) as other,
        channel.subscribe(dead, living) as subscriber,
    ):
        await run_sync(servers[0].server.kill)
        await becomes_true(lambda: channel.outages == other.outages == 1)
        with anyio.fail_after(30):
            for number in range(100):
                await other.publish(living, number)
                assert (await anext(subscriber)).message == number
            waiting = asyncio.ensure_future(other.publish(dead, "late"))
            await run_sync(servers[0].server.start)
            await waiting
            event = await anext(subscriber)
        assert (event.group, event.message) == (dead, "late")
        await becomes_true(lambda: len(gaps) == 1)
        assert channel.outages == 1


async def test_killed_in_turn_they_lose_nothing_that_publish_returned_for(servers: tuple[brokers.Redis, ...]) -> None:
    sent: list[tuple[str, int]] = []
    got: list[tuple[str, int]] = []
    async with (
        Channel(layers_of(servers), capacity=100_000) as channel,
        Channel(layers_of(servers)) as other,
        channel.subscribe(*GROUPS[:6]) as subscriber,
        anyio.create_task_group() as tasks,
    ):

        async def publish(group: str) -> None:
            number = 0
            while True:
                number += 1
                try:
                    await other.publish(group, number)
                except DeliveryUnknown:
                    continue
                sent.append((group, number))
                await anyio.sleep(0.005)

        async def read() -> None:
            async for event in subscriber:
                got.append((event.group, event.message))

        tasks.start_soon(read)
        for group in GROUPS[:6]:
            tasks.start_soon(publish, group)
        for server in servers:
            await run_sync(server.server.restart)
            for group in GROUPS[:6]:
                goal = max(number for name, number in sent if name == group) + 5
                await becomes_true(lambda group=group, goal=goal: any(g == group and n > goal for g, n in got))  # type: ignore[misc]
        seen = list(sent)
        await becomes_true(lambda: set(seen) <= set(got))
        tasks.cancel_scope.cancel()
    assert len(got) == len(set(got)), "nothing twice"
    for group in GROUPS[:6]:
        numbers = [number for name, number in got if name == group]
        assert numbers == sorted(numbers)


async def test_a_bound_queue_whose_server_is_gone_is_told_and_ends_nothing(servers: tuple[brokers.Redis, ...]) -> None:
    layers = layers_of(servers)
    group, queue = name_at(servers, 1, "room-"), name_at(servers, 0, "jobs-")
    async with Channel(layers, publish_timeout=3.0) as channel, channel.subscribe(group) as subscriber:
        await channel.queues.bind(group, queue, lifetime=60, **PLENTY)
        await channel.publish(group, 1)
        assert channel.serializer.decode(await channel.queues.take(queue)) == 1
        await run_sync(servers[0].server.kill)
        try:
            await becomes_true(lambda: channel.outages == 1)
            with pytest.raises(ChannelLayerError, match=f"perhaps not put into queue {queue}.*No connection") as caught:
                await channel.publish(group, 2)
            assert not isinstance(caught.value, ListenerClosed)
            assert channel.outages == 1
            assert [(await anext(subscriber)).message for _ in range(2)] == [1, 2]
        finally:
            await run_sync(servers[0].server.start)


async def test_terms_of_a_binding_to_another_server(servers: tuple[brokers.Redis, ...]) -> None:
    layers = layers_of(servers)
    group, queue = name_at(servers, 1, "room-"), name_at(servers, 0, "jobs-")
    async with Channel(layers) as channel:
        await channel.queues.bind(group, queue, lifetime=60, capacity=2, expiry=60)
        for number in range(3):
            await channel.publish(group, number)
        assert servers[0].ask("LLEN", queue) == 2
        # One whose end has come, as its server's clock says; nobody has tidied it away yet.
        servers[1].ask("HSET", f"{{{group}}}|queues", queue, "2 60000 1")
        servers[0].ask("DEL", queue)
        await channel.publish(group, 3)
        assert servers[0].ask("EXISTS", queue) == 0
