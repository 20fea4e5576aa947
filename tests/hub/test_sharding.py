"""Which of several brokers has a name, and a `Channel` over a list of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from django_anyio_channels import (
    BaseChannelLayer,
    Channel,
    ChannelClosed,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
)
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.hub.sharding import shard_index
from tests.core.test_layer import SixVerbs
from tests.support.scripted import TIME_LIMIT, ScriptedLayer, until

pytestmark = pytest.mark.anyio

PLENTY: dict[str, Any] = {"capacity": 100, "expiry": 60.0}


def name_at(index: int, count: int, *, beginning: str = "") -> str:
    """Return a name that is at this one of so many brokers."""
    return next(name for number in range(100) if shard_index(name := f"{beginning}{number}", count) == index)


# ---- the rule ------------------------------------------------------------------------------------------------------


def test_names_are_where_every_process_and_every_version_finds_them() -> None:
    names = ["asgi:g:news", "asgi:i:0123456789abcdef", "asgi:q:jobs", "asgi:c:nodes", "Ω"]
    assert [shard_index(name, 3) for name in names] == [0, 0, 2, 2, 0]


def test_names_are_spread_evenly_and_stay_when_a_broker_is_appended() -> None:
    names = [f"asgi:g:room-{number}" for number in range(3000)]
    before, after = ([shard_index(name, count) for name in names] for count in (2, 3))
    assert all(1350 < before.count(index) < 1650 for index in range(2))
    assert all(900 < after.count(index) < 1100 for index in range(3))
    assert all(new in (old, 2) for old, new in zip(before, after, strict=True))


# ---- what may be listed --------------------------------------------------------------------------------------------


def test_a_list_holds_layers_of_one_class() -> None:
    with pytest.raises(TypeError, match="Channel needs at least one layer"):
        Channel([])
    with pytest.raises(TypeError, match="of one class, not InMemoryChannelLayer, SixVerbs"):
        Channel([InMemoryChannelLayer(), SixVerbs()])


def test_a_list_of_urls_makes_layers_and_every_node_shares_their_brokers() -> None:
    settings = read_config({"url": ["memory://", "memory://"]})

    def brokers(layers: Sequence[BaseChannelLayer]) -> list[object]:
        return [layer.broker for layer in layers if isinstance(layer, InMemoryChannelLayer)]

    one, other = brokers(settings.make_layers()), brokers(settings.make_layers())
    assert one == other
    assert one[0] is not one[1]


def test_a_list_of_one_url_makes_one_layer() -> None:
    [layer] = read_config({"url": ("memory://",)}).make_layers()
    assert isinstance(layer, InMemoryChannelLayer)
    assert Channel([layer]).layer is layer


async def test_a_channel_that_is_not_open_names_all_its_brokers() -> None:
    channel = Channel([InMemoryChannelLayer(), InMemoryChannelLayer()])
    with pytest.raises(ChannelClosed, match="to memory://, memory:// is not open; use it inside `async with`"):
        await channel.publish("g", 1)


# ---- a Channel over a list -----------------------------------------------------------------------------------------


async def test_each_group_and_queue_is_at_its_broker_and_patterns_are_at_all() -> None:
    layers = [ScriptedLayer() for _ in range(3)]
    names = [f"{number}" for number in range(20)]
    async with Channel(layers) as channel, channel.subscribe(*names, pattern="p*") as subscriber:
        with anyio.fail_after(TIME_LIMIT):
            assert channel.layer is layers[0]
            for index, layer in enumerate(layers):
                assert layer.names == {"p*", *(name for name in names if shard_index(name, 3) == index)}
            assert channel.subscriptions == len(names) + 3
            for index in range(3):
                await channel.publish(name_at(index, 3), index)
                await channel.publish(name_at(index, 3, beginning="p"), index)
                queue = name_at(index, 3, beginning="q")
                await channel.queues.put(queue, b"%d" % index, **PLENTY)
                assert await channel.queues.take(queue) == b"%d" % index
                await channel.queues.unbind(queue, "q")
                assert [layer.count("unbind") for layer in layers] == [int(other <= index) for other in range(3)]
            assert sorted([(await subscriber.receive()).message for _ in range(6)]) == [0, 0, 1, 1, 2, 2]
            await channel.queues.purge("asgi:")
            assert [layer.count("purge") for layer in layers] == [1, 1, 1]
    assert [layer.open for layer in layers] == [False] * 3


async def test_one_broker_that_is_down_delays_only_its_own_names() -> None:
    layers = [ScriptedLayer() for _ in range(2)]
    down, up = name_at(0, 2), name_at(1, 2)
    layers[0].fail("connect", *[ListenerClosed("refused")] * 10_000)
    async with Channel(layers, publish_timeout=0.05) as channel:
        with anyio.fail_after(TIME_LIMIT):
            await until(lambda: layers[1].readers)
            async with channel.subscribe(up) as subscriber:
                await channel.publish(up, "up")
                assert (await subscriber.receive()).message == "up"
            with pytest.raises(ListenerClosed, match="No connection to scripted://fake"):
                await channel.publish(down, "down")
            with pytest.raises(ListenerClosed, match="No connection to scripted://fake"):
                await channel.connected()
            assert channel.outages == 0


async def test_each_broker_has_its_own_outages() -> None:
    layers = [ScriptedLayer() for _ in range(2)]
    async with Channel(layers) as channel, channel.subscribe(name_at(0, 2), name_at(1, 2)) as subscriber:
        with anyio.fail_after(TIME_LIMIT):
            await channel.connected()
            layers[1].play(ListenerClosed("broke"))
            await until(lambda: channel.outages == 1)
            await channel.connected()
            for index in range(2):
                await channel.publish(name_at(index, 2), index)
            assert sorted([(await subscriber.receive()).message for _ in range(2)]) == [0, 1]
            assert [layer.sessions for layer in layers] == [1, 2]


async def test_subscribers_are_counted_where_the_group_is() -> None:
    class Counting(ScriptedLayer):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.subscribers = count

        async def count_subscribers(self, group: str) -> int:
            return self.subscribers

    async with Channel([Counting(number) for number in range(3)]) as channel:
        for name in ("a", "b", "c", "d"):
            assert await channel.count_subscribers(name) == shard_index(name, 3)


async def test_brokers_without_a_history_have_no_positions() -> None:
    async with Channel([InMemoryChannelLayer() for _ in range(3)]) as channel:
        with pytest.raises(NotSupported, match="no history"):
            await channel.position("room")
        with pytest.raises(NotSupported, match="no history"):
            await channel.history("room")
