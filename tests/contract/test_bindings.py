"""Queues that are bound to groups: the layer says which are, `Channel` puts what is published into them."""

from __future__ import annotations

import random

import anyio
import pytest

from django_anyio_channels import Channel, PublishResult, QueueFull
from django_anyio_channels.core.events import BoundQueue

from .helpers import Unique, accepted, blocked, connected, opened, take_all
from .kinds import Broker, Kind
from .test_promises import MEGABYTE
from .test_queues import FOR_LONG, SHORT

pytestmark = pytest.mark.anyio

END = b"end"


async def bind(
    channel: Channel,
    group: str,
    queue: str,
    *,
    capacity: int = 1000,
    expiry: float = FOR_LONG,
    lifetime: float = FOR_LONG,
) -> None:
    await channel.queues.bind(group, queue, capacity=capacity, expiry=expiry, lifetime=lifetime)


async def taken(channel: Channel, queue: str) -> list[bytes]:
    """Return what a queue holds, without waiting for more."""
    await channel.queues.put(queue, END, capacity=1000, expiry=FOR_LONG)
    return await take_all(channel.queues, queue, until=END)


async def published(kind: Kind, channel: Channel) -> None:
    """Wait until the broker has what was published: at once, if `publish` waits for that."""
    if not kind.acknowledged:
        async with channel.subscribe("after what was published"):
            pass


# ---- the layer -----------------------------------------------------------------------------------------------------


async def test_publish_returns_the_bindings_that_have_not_ended(
    kind: Kind, binding_broker: Broker, unique: Unique
) -> None:
    async with connected(binding_broker, 2) as (layer, other):
        group, queue, short, unbound = (unique(name) for name in ("g", "q", "short", "unbound"))
        for name, lifetime in ((queue, FOR_LONG), (short, SHORT), (unbound, FOR_LONG)):
            await layer.bind(group, name, capacity=7, expiry=3.5, lifetime=lifetime)
        await other.unbind(group, unbound)
        await anyio.sleep(1.5 * SHORT)
        for publisher in (layer, other):
            result = await publisher.publish(group, b"x")
            assert isinstance(result, PublishResult)
            assert list(result.bound_queues) == ([BoundQueue(queue, 7, 3.5)] if layer.returns_bound_queues else [])
        await accepted(kind, layer)


async def test_a_layer_puts_nothing_into_the_queues_that_it_returns(binding_broker: Broker, unique: Unique) -> None:
    async with connected(binding_broker) as (layer,):
        group, queue = unique("g"), unique("q")
        await layer.bind(group, queue, capacity=1000, expiry=FOR_LONG, lifetime=FOR_LONG)
        await layer.publish(group, b"published")
        await layer.put(queue, END, capacity=1000, expiry=FOR_LONG)
        found = await take_all(layer, queue, until=END)
        assert found == ([] if layer.returns_bound_queues else [b"published"])


# ---- the Channel ---------------------------------------------------------------------------------------------------


async def test_what_is_published_to_a_bound_group_is_put_into_the_queue(channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker, 3) as channels:
        group, queue = unique("g"), unique("q")
        await bind(channels[0], group, queue)
        for number, channel in enumerate(channels):
            await channel.publish_payload(group, b"%d" % number)
        assert sorted([await channels[2].queues.take(queue) for _ in range(3)]) == [b"0", b"1", b"2"]


async def test_a_bound_queue_gets_each_message_once(channel_broker: Broker, unique: Unique) -> None:
    """However many nodes there are, bind it, and subscribe to the group."""
    async with opened(channel_broker, 3) as (one, two, three):
        group, queue = unique("g"), unique("q")
        for channel in (one, two, three):
            await bind(channel, group, queue)
            await bind(channel, group, queue)
        async with one.subscribe(group) as first, two.subscribe(group) as second, three.subscribe(group) as third:
            for number in range(20):
                await one.publish(group, number)
            for subscriber in (first, second, third):
                assert [(await subscriber.receive()).message for _ in range(20)] == list(range(20))
        assert await taken(two, queue) == [one.encode(number) for number in range(20)]


async def test_a_group_feeds_several_queues_and_a_queue_takes_from_several_groups(
    channel_broker: Broker, unique: Unique
) -> None:
    async with opened(channel_broker) as (channel,):
        groups, queues = [unique("g") for _ in range(2)], [unique("q") for _ in range(2)]
        for group in groups:
            for queue in queues:
                await bind(channel, group, queue)
            await channel.publish_payload(group, group.encode())
        for queue in queues:
            assert await taken(channel, queue) == [group.encode() for group in groups]


async def test_a_waiting_reader_is_woken_by_a_bound_group(channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker, 2) as (reader, writer):
        group, queue = unique("g"), unique("q")
        await bind(writer, group, queue)
        found: list[bytes] = []

        async def take() -> None:
            found.append(await reader.queues.take(queue))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await blocked()
            await writer.publish_payload(group, b"woken")
        assert found == [b"woken"]


async def test_unbind_ends_a_binding(kind: Kind, channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker, 2) as (channel, other):
        group, queue, kept = unique("g"), unique("q"), unique("kept")
        await bind(channel, group, queue)
        await bind(channel, group, kept)
        await channel.publish_payload(group, b"1")
        await published(kind, channel)
        await other.queues.unbind(group, queue)
        await channel.publish_payload(group, b"2")
        assert await taken(channel, queue) == [b"1"]
        assert await taken(channel, kept) == [b"1", b"2"]
        await channel.queues.unbind(group, queue)


async def test_unbinding_an_unknown_binding_is_no_error(channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker) as (channel,):
        await channel.queues.unbind(unique("never"), unique("never"))
        await bind(channel, group := unique("g"), queue := unique("q"))
        await channel.queues.unbind(group, unique("never"))
        await channel.queues.unbind(unique("never"), queue)
        await channel.publish_payload(group, b"still bound")
        assert await channel.queues.take(queue) == b"still bound"


async def test_a_full_bound_queue_drops_and_costs_the_publisher_nothing(channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker, 2) as (channel, publisher):
        group, full, roomy = unique("g"), unique("q"), unique("q")
        await bind(channel, group, full, capacity=2)
        await bind(channel, group, roomy)
        async with channel.subscribe(group) as subscriber:
            for number in range(5):
                await publisher.publish(group, number)
            assert [(await subscriber.receive()).message for _ in range(5)] == list(range(5))
        sent = [channel.encode(number) for number in range(5)]
        assert await taken(channel, full) == sent[:2]
        assert await taken(channel, roomy) == sent


async def test_what_ends_with_time(channel_broker: Broker, unique: Unique) -> None:
    """Each of these waits until something has ended; they wait together."""
    async with opened(channel_broker) as (channel,), anyio.create_task_group() as tasks:
        tasks.start_soon(a_message_put_through_a_binding_expires, channel, unique)
        tasks.start_soon(a_binding_ends_after_its_lifetime, channel, unique)
        tasks.start_soon(binding_again_begins_a_new_lifetime_with_new_terms, channel, unique)


async def a_message_put_through_a_binding_expires(channel: Channel, unique: Unique) -> None:
    group, queue = unique("g"), unique("q")
    await bind(channel, group, queue, expiry=SHORT)
    await channel.publish_payload(group, b"gone")
    await anyio.sleep(1.5 * SHORT)
    assert await taken(channel, queue) == []


async def a_binding_ends_after_its_lifetime(channel: Channel, unique: Unique) -> None:
    group, queue = unique("g"), unique("q")
    await bind(channel, group, queue, lifetime=SHORT)
    await channel.publish_payload(group, b"in time")
    await anyio.sleep(1.5 * SHORT)
    await channel.publish_payload(group, b"too late")
    assert await taken(channel, queue) == [b"in time"]


async def binding_again_begins_a_new_lifetime_with_new_terms(channel: Channel, unique: Unique) -> None:
    group, queue = unique("g"), unique("q")
    await bind(channel, group, queue, capacity=1, lifetime=SHORT)
    await bind(channel, group, queue, capacity=2)
    await anyio.sleep(1.5 * SHORT)
    for message in (b"1", b"2", b"3"):
        await channel.publish_payload(group, message)
    assert await taken(channel, queue) == [b"1", b"2"]


async def test_a_binding_outlives_the_node_that_made_it(channel_broker: Broker, unique: Unique) -> None:
    group, queue = unique("g"), unique("q")
    async with opened(channel_broker) as (other,):
        async with opened(channel_broker) as (channel,):
            await bind(channel, group, queue)
        await other.publish_payload(group, b"still bound")
        assert await other.queues.take(queue) == b"still bound"


async def test_big_messages_pass_a_binding_whole(channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker) as (channel,):
        group, queue = unique("g"), unique("q")
        await bind(channel, group, queue)
        message = random.Random(0).randbytes(MEGABYTE)
        await channel.publish_payload(group, message)
        assert await channel.queues.take(queue) == message


async def test_purge_ends_the_bindings_that_begin_so(channel_broker: Broker, unique: Unique) -> None:
    async with opened(channel_broker, 2) as (channel, other):
        prefix, spared = unique("p:"), unique("s:")
        await bind(channel, prefix + ".g", prefix + ".q")
        await bind(channel, spared + ".g", spared + ".q")
        await other.queues.purge(prefix)
        for name in (prefix, spared):
            await channel.publish_payload(name + ".g", b"published")
        assert await taken(channel, prefix + ".q") == []
        assert await taken(channel, spared + ".q") == [b"published"]


async def test_queues_of_several_brokers_keep_their_capacity_and_are_purged(
    channel_broker: Broker, unique: Unique
) -> None:
    async with opened(channel_broker, 2) as (channel, other):
        prefix = unique("p:")
        queues = [f"{prefix}{number}" for number in range(8)]
        for queue in queues:
            await channel.queues.put(queue, b"1", capacity=1, expiry=FOR_LONG)
            with pytest.raises(QueueFull):
                await other.queues.put(queue, b"2", capacity=1, expiry=FOR_LONG)
        assert await other.queues.take(queues[0]) == b"1"
        await other.queues.purge(prefix)
        for queue in queues:
            assert await taken(channel, queue) == []
