"""Queues that are bound to groups, where the broker returns them and `Channel` puts what is published."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from django_anyio_channels import (
    Backoff,
    BaseChannelLayer,
    Channel,
    ChannelClosed,
    ChannelLayerError,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
    PublishRefused,
    PublishResult,
    QueueFull,
)
from django_anyio_channels.core.events import BoundQueue
from tests.support.scripted import TIME_LIMIT, ScriptedLayer, until

from .test_sharding import name_at

pytestmark = pytest.mark.anyio

PLENTY: dict[str, Any] = {"capacity": 100, "expiry": 60.0}


class BindingLayer(ScriptedLayer):
    """A layer that returns bound queues, and whose queues hold as many messages as their capacity."""

    returns_bound_queues = True

    def __init__(self, *bound_queues: BoundQueue) -> None:
        super().__init__()
        self.bound_queues = bound_queues
        self.puts: list[tuple[str, bytes, int, float]] = []

    async def publish(self, group: str, message: bytes) -> PublishResult:  # type: ignore[override]
        return PublishResult(await super().publish(group, message), "1-1", self.bound_queues)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await super().put(queue, message, capacity=capacity, expiry=expiry)
        self.puts.append((queue, message, capacity, expiry))


def channel_over(*layers: BaseChannelLayer, publish_timeout: float = TIME_LIMIT) -> Channel:
    return Channel(layers, backoff=Backoff(first=0.0, longest=0.0), publish_timeout=publish_timeout)


# ---- one broker ----------------------------------------------------------------------------------------------------


async def test_a_published_message_is_put_into_each_bound_queue_with_its_terms() -> None:
    layer = BindingLayer(BoundQueue("jobs", 10, 1.5), BoundQueue("mail", 20, 2.5))
    async with channel_over(layer) as channel:
        result = await channel.publish_payload("g", b"x")
    assert (result.receivers, result.position) == (0, "1-1")
    assert layer.puts == [("jobs", b"x", 10, 1.5), ("mail", b"x", 20, 2.5)]


async def test_a_full_bound_queue_is_counted_and_logged_and_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    layer = InMemoryChannelLayer()
    async with channel_over(layer) as channel:
        await channel.queues.bind("g", "full", capacity=1, expiry=60.0, lifetime=60.0)
        await channel.queues.bind("g", "roomy", capacity=9, expiry=60.0, lifetime=60.0)
        for message in (b"1", b"2", b"3"):
            await channel.publish_payload("g", message)
        assert channel.stats.dropped == channel.stats.dropped_queue == 2
        assert await channel.queues.take("full") == b"1"
        assert [await channel.queues.take("roomy") for _ in range(3)] == [b"1", b"2", b"3"]
    assert [record.getMessage() for record in caplog.records] == [
        "Queue full is full (capacity 1); dropped a message of its group"
    ] * 2


async def test_many_drops_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    layer = BindingLayer(BoundQueue("full", 1, 1.0))
    async with channel_over(layer) as channel:
        layer.fail("put", *[QueueFull("full", 1)] * 100)
        for _ in range(100):
            await channel.publish("g", 1)
        assert channel.stats.dropped == 100
    assert 0 < len(caplog.records) <= 20


@pytest.mark.parametrize("error", [ListenerClosed("broke off"), PublishRefused("no permission for jobs")])
async def test_a_bound_queue_that_fails_is_distinct_from_a_failed_publish(error: ChannelLayerError) -> None:
    layer = BindingLayer(BoundQueue("jobs", 10, 1.0), BoundQueue("mail", 10, 1.0))
    async with channel_over(layer) as channel:
        layer.fail("put", error)
        with pytest.raises(ChannelLayerError, match="was published, but perhaps not put into queue jobs") as caught:
            await channel.publish_payload("g", b"x")
        assert not isinstance(caught.value, ListenerClosed)
        assert str(error) in str(caught.value)
        assert layer.published == [("g", b"x")]
        assert layer.puts == [("mail", b"x", 10, 1.0)], "the other queues have it"
        await channel.publish_payload("g", b"y")


async def test_a_layer_that_puts_itself_returns_no_bound_queues() -> None:
    """One broker's layer may be subscribed to the group on behalf of its queues."""
    layer = ScriptedLayer()
    async with channel_over(layer) as channel:
        await channel.queues.bind("g", "q", lifetime=1.0, **PLENTY)
        await channel.publish("g", 1)
        assert (layer.count("bind"), layer.count("put")) == (1, 0)


async def test_queues_of_a_channel_that_is_not_open() -> None:
    queues = channel_over(InMemoryChannelLayer()).queues
    with pytest.raises(ChannelClosed, match="inside `async with`"):
        await queues.put("q", b"x", **PLENTY)
    with pytest.raises(ChannelClosed, match="inside `async with`"):
        await queues.purge("")


# ---- lists of brokers ----------------------------------------------------------------------------------------------


async def test_the_queue_of_a_bound_group_may_be_at_another_broker() -> None:
    layers = [InMemoryChannelLayer() for _ in range(2)]
    group, queue = name_at(0, 2), name_at(1, 2)
    async with channel_over(*layers) as channel:
        await channel.queues.bind(group, queue, capacity=1, expiry=60.0, lifetime=60.0)
        for message in (b"1", b"2"):
            await channel.publish_payload(group, message)
        assert channel.stats.dropped == 1
        assert layers[1].broker.take_nowait(queue, None) == b"1"  # type: ignore[arg-type]
        await channel.queues.unbind(group, queue)
        assert (await channel.publish_payload(group, b"3")).bound_queues == ()


async def test_a_bound_queue_whose_broker_is_down_is_an_error_of_its_own() -> None:
    group, queue, other = name_at(0, 2), name_at(1, 2), name_at(0, 2, beginning="q")
    layers = [BindingLayer(BoundQueue(queue, 10, 1.0), BoundQueue(other, 10, 1.0)), BindingLayer()]
    layers[1].hold("connect")
    with anyio.fail_after(TIME_LIMIT):
        async with channel_over(*layers, publish_timeout=0.05) as channel:
            await until(lambda: layers[0].readers)
            with pytest.raises(ChannelLayerError, match=f"not put into queue {queue}, .*No connection") as caught:
                await channel.publish_payload(group, b"x")
            assert not isinstance(caught.value, ListenerClosed)
            assert channel.outages == 0
    assert layers[0].puts == [(other, b"x", 10, 1.0)]


async def test_a_layer_that_puts_itself_cannot_bind_in_a_list() -> None:
    layers = [ScriptedLayer() for _ in range(2)]
    async with channel_over(*layers) as channel:
        with pytest.raises(NotSupported, match=r"cannot bind a group to a queue of another broker.*use one broker"):
            await channel.queues.bind("g", "q", lifetime=1.0, **PLENTY)
    assert [layer.count("bind") for layer in layers] == [0, 0]


async def test_a_publisher_that_is_cancelled_leaves_no_bound_queue_without_the_message() -> None:
    async with Channel(InMemoryChannelLayer()) as channel:
        for queue in ("a", "b"):
            await channel.queues.bind("g", queue, capacity=1000, expiry=60.0, lifetime=60.0)
        for number in range(100):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await channel.publish("g", number)
        await channel.publish("g", "end")
        received = []
        for queue in ("a", "b"):
            received.append([channel.serializer.decode(await channel.queues.take(queue))])
            while received[-1][-1] != "end":
                received[-1].append(channel.serializer.decode(await channel.queues.take(queue)))
    assert received[0] == received[1]
    assert len(received[0]) > 50
