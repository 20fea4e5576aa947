"""Lists of PostgreSQL or MQTT brokers: each route over two and three, and the others when one dies.

Redis has such tests of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import AnyioChannelLayer, Channel, NotSupported
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.hub.sharding import shard_index
from tests.support.brokers import mosquitto, postgres
from tests.support.brokers.server import Server, running
from tests.support.layers import TIME_LIMIT, anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio

GROUPS = [f"room-{number}" for number in range(12)]
JOBS = [f"work-{number}" for number in range(12)]


@dataclass(frozen=True)
class Brokers:
    """Independent brokers of one kind."""

    urls: list[str]
    servers: list[Server]

    def config(self) -> dict[str, Any]:
        return {"url": self.urls, "options": {"probe_interval": 1.0}}

    def named_at(self, names: list[str], topic: str) -> list[list[str]]:
        """Return the names that are at each broker, as the end of a topic."""
        count = len(self.urls)
        return [[name for name in names if shard_index(topic + name, count) == index] for index in range(count)]


def make(kind: str) -> tuple[str, Server]:
    if kind == "postgres":
        database = postgres.plain()
        return database.url, database.server
    broker = mosquitto.mosquitto()
    return broker.url, broker.server


@pytest.fixture(scope="module", params=["postgres", "mqtt"])
def three(request: pytest.FixtureRequest) -> Iterator[Brokers]:
    urls, servers = zip(*(make(request.param) for _ in range(3)), strict=True)
    with running(*servers):
        yield Brokers(list(urls), list(servers))


@pytest.fixture(params=[2, 3])
def brokers(request: pytest.FixtureRequest, three: Brokers) -> Brokers:
    return Brokers(three.urls[: request.param], three.servers[: request.param])


@pytest.fixture
def two(three: Brokers) -> Iterator[Brokers]:
    """Of which the test may kill the first."""
    yield Brokers(three.urls[:2], three.servers[:2])
    if not three.servers[0].running:
        three.servers[0].start()


@asynccontextmanager
async def processes(*configs: dict[str, Any]) -> AsyncIterator[list[AnyioChannelLayer]]:
    """A layer for each CONFIG; the body has `TIME_LIMIT` seconds."""
    made = [AnyioChannelLayer(**config) for config in configs]
    try:
        with anyio.fail_after(TIME_LIMIT):
            yield made
    finally:
        for layer in made:
            await layer.close()


async def received(layer: AnyioChannelLayer, channel: str, count: int) -> list[Any]:
    """Return what the next messages are about."""
    return [(await layer.receive(channel))["about"] for _ in range(count)]


async def test_groups_are_spread_and_reach_every_process(brokers: Brokers) -> None:
    """A process with only one of the brokers in its CONFIG gets the groups of that broker, and no others."""
    alone = [{"url": url} for url in brokers.urls]
    async with processes(brokers.config(), brokers.config(), *alone) as layers:
        one, other, *each_alone = layers
        names = [await layer.new_channel() for layer in layers]
        for group in GROUPS:
            for layer, name in zip(layers, names, strict=True):
                await layer.group_add(group, name)
        for group in GROUPS:
            await one.group_send(group, {"type": "x", "about": group})
        for layer, name in zip((one, other), names, strict=False):
            assert sorted(await received(layer, name, len(GROUPS))) == sorted(GROUPS)
        shares = brokers.named_at(GROUPS, "asgi:g:")
        assert all(shares)
        for layer, name, share in zip(each_alone, names[2:], shares, strict=True):
            await layer.send(name, {"type": "x", "about": "the end"})
            assert await received(layer, name, len(share) + 1) == [*share, "the end"]


async def test_normal_channels_are_spread_and_each_message_is_read_once(brokers: Brokers) -> None:
    alone = [{"url": url} for url in brokers.urls]
    async with processes(brokers.config(), brokers.config(), *alone) as (one, other, *each_alone):
        for job in JOBS:
            for number in range(4):
                await one.send(job, {"type": "x", "about": number})
        shares = brokers.named_at(JOBS, "asgi:q:")
        assert all(shares)
        for layer, share in zip(each_alone, shares, strict=True):
            for job in share:
                assert await received(layer, job, 2) == [0, 1]
        for job in JOBS:
            assert await received(other, job, 1) + await received(one, job, 1) == [2, 3]


async def test_names_of_other_processes(brokers: Brokers) -> None:
    async with processes(*[brokers.config()] * 3) as (one, other, third):
        names = [(layer, await layer.new_channel()) for layer in (one, other) for _ in range(4)]
        for group in GROUPS[:4]:
            for _, name in names:
                await third.group_add(group, name)
            await third.group_send(group, {"type": "x", "about": group})
            # Before the membership ends: the group and the command may come by different brokers.
            for layer, name in names:
                assert await received(layer, name, 1) == [group]
            for _, name in names:
                await third.group_discard(group, name)
            await third.group_send(group, {"type": "x", "about": "no subscriber"})
        for layer, name in names:
            await third.send(name, {"type": "x", "about": "the end"})
            assert await received(layer, name, 1) == ["the end"]


async def test_flush_empties_every_broker_and_every_process(brokers: Brokers) -> None:
    async with processes(*[brokers.config()] * 3) as (one, other, third):
        name = await other.new_channel()
        for group, job in zip(GROUPS, JOBS, strict=True):
            await other.group_add(group, name)
            await third.send(job, {"type": "x", "about": "old"})
            await one.group_send(group, {"type": "x", "about": "old"})
        await one.flush()
        for group, job in zip(GROUPS, JOBS, strict=True):
            await one.group_send(group, {"type": "x", "about": "no member"})
            await one.send(job, {"type": "x", "about": "new"})
            assert await received(third, job, 1) == ["new"]
        await one.send(name, {"type": "x", "about": "new"})
        assert await received(other, name, 1) == ["new"]


async def test_a_normal_channel_in_groups_of_other_brokers(two: Brokers) -> None:
    [layer_of_one, _] = read_config(two.config()).make_layers()
    async with processes(two.config(), two.config()) as (layer, other):
        if not layer_of_one.returns_bound_queues:
            with pytest.raises(NotSupported, match=r"cannot bind a group to a queue of another broker.*use one"):
                await layer.group_add("room", "job")
            return
        for group in GROUPS:
            await layer.group_add(group, "job")
        for group in GROUPS:
            await other.group_send(group, {"type": "x", "about": group})
        assert sorted(await received(layer, "job", len(GROUPS))) == sorted(GROUPS)
        await layer.group_discard(GROUPS[0], "job")
        for group in GROUPS[:2]:
            await other.group_send(group, {"type": "x", "about": group})
        assert await received(layer, "job", 1) == GROUPS[1:2]


async def test_the_other_brokers_go_on_when_one_dies(two: Brokers) -> None:
    settings = read_config(two.config())
    dead, living = (f"room-{names[0]}" for names in two.named_at([str(number) for number in range(12)], "room-"))
    async with (
        Channel(settings.make_layers()) as channel,
        Channel(settings.make_layers()) as other,
        channel.subscribe(dead, living) as subscriber,
    ):
        with anyio.fail_after(TIME_LIMIT):
            await other.connected()
            await run_sync(two.servers[0].kill)
            while not channel.outages == other.outages == 1:
                await anyio.sleep(0.01)
            for number in range(50):
                await other.publish(living, number)
                assert (await anext(subscriber)).message == number
            await run_sync(two.servers[0].start)
            # MQTT brokers do not report who is back, so no publisher can wait for the subscribers.
            await channel.connected()
            await other.publish(dead, "late")
            event = await anext(subscriber)
        assert (event.group, event.message) == (dead, "late")
        assert channel.outages == 1
