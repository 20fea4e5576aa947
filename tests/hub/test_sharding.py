"""What a spread layer does of its own; the rest is the contract's."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from django_anyio_channels import (
    Channel,
    Event,
    InMemoryBroker,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
    ShardedChannelLayer,
)
from django_anyio_channels.django.config import read_config
from tests.core.test_layer import SixVerbs

pytestmark = pytest.mark.anyio

PLENTY: dict[str, Any] = {"capacity": 100, "expiry": 60.0}


class Queueing(SixVerbs):
    """A layer that binds within its own broker only."""

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        raise AssertionError("nobody gets here")


class Slow(InMemoryChannelLayer):
    """It connects when it is told to."""

    def __init__(self, go_on: anyio.Event) -> None:
        super().__init__()
        self.go_on = go_on

    async def connect(self) -> None:
        await self.go_on.wait()
        await super().connect()

    async def next_published(self) -> Event[bytes]:
        raise AssertionError("nobody gets here")


class Forgetful(InMemoryChannelLayer):
    """It is told of what needs no history."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def disable_history(self, group: str) -> None:
        self.told.append(group)


def test_the_broker_of_a_group_is_told_that_it_needs_no_history() -> None:
    parts = [Forgetful() for _ in range(3)]
    layer = ShardedChannelLayer(parts)
    layer.disable_history("asgi:q:jobs")
    assert [part.told for part in parts] == [[], [], ["asgi:q:jobs"]]


def spread(count: int) -> ShardedChannelLayer:
    return ShardedChannelLayer([InMemoryChannelLayer() for _ in range(count)])


def place(layer: ShardedChannelLayer, name: str) -> int:
    return list(layer.parts).index(layer.part_of(name))


def test_names_are_where_every_process_and_every_version_finds_them() -> None:
    names = ["asgi:g:news", "asgi:i:0123456789abcdef", "asgi:q:jobs", "asgi:c:nodes", "Ω"]
    assert [place(spread(3), name) for name in names] == [0, 0, 2, 2, 0]


def test_names_are_spread_evenly_and_stay_when_a_broker_is_appended() -> None:
    names = [f"asgi:g:room-{number}" for number in range(3000)]
    before, after = ([place(spread_layer, name) for name in names] for spread_layer in (spread(2), spread(3)))
    assert all(1350 < before.count(index) < 1650 for index in range(2))
    assert all(900 < after.count(index) < 1100 for index in range(3))
    assert all(new in (old, 2) for old, new in zip(before, after, strict=True))


def test_what_makes_no_layer() -> None:
    with pytest.raises(TypeError, match="needs at least one layer"):
        ShardedChannelLayer([])
    with pytest.raises(TypeError, match="of one class, not InMemoryChannelLayer, SixVerbs"):
        ShardedChannelLayer([InMemoryChannelLayer(), SixVerbs()])


def test_a_list_of_urls_makes_one_and_every_node_shares_its_brokers() -> None:
    settings = read_config({"url": ["memory://", "memory://"]})
    one, other = settings.make_layers()[0], settings.make_layers()[0]
    assert isinstance(one, ShardedChannelLayer)
    assert one.address == "memory://, memory://"
    brokers = [
        [part.broker for part in layer.parts if isinstance(part, InMemoryChannelLayer)] for layer in (one, other)
    ]
    assert brokers[0] == brokers[1]
    assert brokers[0][0] is not brokers[0][1]


def test_a_list_of_one_is_no_list() -> None:
    assert isinstance(read_config({"url": ("memory://",)}).make_layers()[0], InMemoryChannelLayer)


async def test_a_layer_that_cannot_bind_elsewhere_says_so() -> None:
    layer = ShardedChannelLayer([Queueing(), Queueing()])
    await layer.connect()
    with pytest.raises(NotSupported, match=r"Queueing cannot bind a group to a queue that another broker has.*one bro"):
        await layer.bind("g", "q", lifetime=1, **PLENTY)
    await layer.disconnect()
    async with Channel(ShardedChannelLayer([Queueing(), Queueing()])) as channel:
        with pytest.raises(NotSupported, match=r"Queueing cannot bind a group"):
            await channel.queues.bind("g", "q", lifetime=1, **PLENTY)


async def test_disconnected_while_it_connects() -> None:
    go_on = anyio.Event()
    layer = ShardedChannelLayer([Slow(go_on), Slow(go_on)])

    async def connect() -> None:
        with pytest.raises(ListenerClosed, match="memory://, memory://: not connected"):
            await layer.connect()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        await anyio.wait_all_tasks_blocked()
        await layer.disconnect()
        go_on.set()
    for part in layer.parts:
        with pytest.raises(ListenerClosed):
            await part.publish("g", b"x")


async def test_a_full_queue_of_another_broker_drops_and_is_counted() -> None:
    brokers = [InMemoryBroker() for _ in range(2)]
    layer = ShardedChannelLayer([InMemoryChannelLayer(broker=broker) for broker in brokers])
    group = next(name for name in map(str, range(100)) if layer.part_of(name) is layer.parts[0])
    queue = next(name for name in map(str, range(100)) if layer.part_of(name) is layer.parts[1])
    await layer.connect()
    await layer.bind(group, queue, capacity=1, expiry=60, lifetime=60)
    for message in (b"1", b"2"):
        await layer.publish(group, message)
    assert await layer.take(queue) == b"1"
    assert brokers[0].stats.dropped == 1
    await layer.disconnect()


class Counting(SixVerbs):
    """A layer that knows who listens."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def count_subscribers(self, group: str) -> int:
        return self.count


async def test_who_listens_is_asked_where_the_group_is() -> None:
    layer = ShardedChannelLayer([Counting(0), Counting(1), Counting(2)])
    await layer.connect()
    for name in ("a", "b", "c", "d"):
        assert await layer.count_subscribers(name) == place(layer, name)


async def test_brokers_without_a_history_have_no_positions() -> None:
    layer = spread(3)
    await layer.connect()
    with pytest.raises(NotSupported, match="no history"):
        await layer.position("room")
    await layer.disconnect()
