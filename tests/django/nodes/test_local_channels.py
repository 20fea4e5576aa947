"""`django.nodes.local_channels`: channels of consumers, memberships, and readers of a prefix."""

from __future__ import annotations

import asyncio
import gc
import sys

import pytest

from django_anyio_channels import AnyioChannelLayer, ListenerClosed

from ..helpers import layers, node_in, soon, take_down


def test_a_group_add_that_fails_ends_no_earlier_membership() -> None:
    async def main() -> None:
        (layer,) = layers(1, publish_timeout=2.0)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        connection = await take_down(layer)
        with pytest.raises(ListenerClosed, match=r"No connection to memory:// for 2 s"):
            await layer.group_add("g", member)
        connection.is_down = False
        while True:
            try:
                await layer.group_send("g", {"type": "n", "n": 1})
                break
            except ListenerClosed:
                continue
        assert await soon(layer.receive(member)) == {"type": "n", "n": 1}

    asyncio.run(main())


def test_a_prefix_is_read_without_its_neighbours() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        one, other = await layer.new_channel("one"), await layer.new_channel("other")
        await layer.send(other, {"type": "n", "n": 1})
        await layer.send(one, {"type": "n", "n": 2})
        assert await soon(layer.receive(one[: one.index("!") + 1])) == {"type": "n", "n": 2}
        assert await soon(layer.receive(other)) == {"type": "n", "n": 1}

    asyncio.run(main())


def test_a_reader_of_a_prefix_waits_for_all_channels_with_it() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        empty = await layer.new_channel("one")
        await layer.group_add("g", empty)
        prefix = empty[: empty.index("!") + 1]
        reading = asyncio.ensure_future(layer.receive(prefix))
        await asyncio.sleep(0)
        await layer.send(await layer.new_channel("one"), {"type": "n", "n": 1})
        assert await soon(reading) == {"type": "n", "n": 1}
        reading = asyncio.ensure_future(layer.receive(prefix))
        await asyncio.sleep(0)
        await layer.group_send("g", {"type": "n", "n": 2})
        assert await soon(reading) == {"type": "n", "n": 2}

    asyncio.run(main())


def test_a_gap_is_reported_to_channels_that_resumed_the_group_only() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(options={"history_length": 5})
        resumed, joined = await layer.new_channel(), await layer.new_channel()
        await layer.group_resume("g", resumed)
        await layer.group_add("g", joined)
        node = node_in(layer)
        [topic] = {topic for channel in node.local_channels for topic in channel.topics}
        node.local_channels.mark_gap(topic)
        await layer.group_send("g", {"type": "n", "n": 1})
        assert await soon(layer.receive(resumed)) == {"type": "group.missed", "group": "g"}
        assert await soon(layer.receive(joined)) == {"type": "n", "n": 1}
        await layer.close()

    asyncio.run(main())


@pytest.mark.parametrize("left", [False, True], ids=["joined twice", "left between"])
def test_a_cancelled_group_add_does_not_undo_another(left: bool) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        channel = await layer.new_channel()
        connection = await take_down(layer)
        first, second = (asyncio.ensure_future(layer.group_add("g", channel)) for _ in range(2))
        await asyncio.sleep(0)
        if left:
            await layer.group_discard("g", channel)
            second.cancel()
            await asyncio.wait([second])
            second = asyncio.ensure_future(layer.group_add("g", channel))
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        connection.is_down = False
        await soon(second)
        await layer.group_send("g", {"type": "n", "n": 1})
        assert await soon(layer.receive(channel)) == {"type": "n", "n": 1}
        await layer.group_discard("g", channel)
        await layer.group_send("g", {"type": "n", "n": 2})
        await layer.send(channel, {"type": "n", "n": 3})
        assert await soon(layer.receive(channel)) == {"type": "n", "n": 3}

    asyncio.run(main())


def test_a_group_discard_ends_a_pending_group_add_and_no_other() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        left, kept = [await layer.new_channel() for _ in range(2)]
        await layer.group_add("g", kept)
        connection = await take_down(layer)
        joins = [asyncio.ensure_future(layer.group_add("g", channel)) for channel in (left, kept)]
        await asyncio.sleep(0)
        await layer.group_discard("g", left)
        connection.is_down = False
        await soon(asyncio.gather(*joins))
        await layer.group_send("g", {"type": "n", "n": 1})
        await layer.send(left, {"type": "n", "n": 2})
        assert await soon(layer.receive(kept)) == {"type": "n", "n": 1}
        assert await soon(layer.receive(left)) == {"type": "n", "n": 2}

    asyncio.run(main())


def test_cancelled_group_adds_leave_nothing() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        channel = await layer.new_channel()
        await take_down(layer)
        joins = [asyncio.ensure_future(layer.group_add("g", channel)) for _ in range(3)]
        await asyncio.sleep(0)
        for join in joins:
            join.cancel()
        await asyncio.wait(joins)
        assert layer.statistics()["channels"] == 0

    asyncio.run(main())


class Consumer:
    """Asks for a name."""


async def name_of(consumer: Consumer, layer: AnyioChannelLayer) -> str:
    await layer.new_channel()
    node = node_in(layer)
    return node.local_channels.new("specific", consumer)


async def forgotten() -> None:
    """Return when what nobody holds any more has ended."""
    gc.collect()
    await asyncio.sleep(0)


def test_messages_for_a_consumer_that_has_ended_leave_nothing() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        consumer = Consumer()
        name = await name_of(consumer, layer)
        await layer.group_add("g", name)
        assert layer.statistics()["channels"] == 1
        del consumer
        await forgotten()
        assert layer.statistics()["channels"] == 0
        await layer.send(name, {"type": "n", "n": 1})
        await layer.group_add("g", name)
        await layer.group_send("g", {"type": "n", "n": 2})
        assert layer.statistics()["channels"] == 0

    asyncio.run(main())


def test_a_consumers_channel_outlives_it_while_another_reader_waits() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        consumer = Consumer()
        name = await name_of(consumer, layer)
        waiting = asyncio.ensure_future(layer.receive(name))
        await asyncio.sleep(0)
        del consumer
        await forgotten()
        for number in (1, 2):
            await layer.send(name, {"type": "n", "n": number})
        assert await soon(waiting) == {"type": "n", "n": 1}
        assert await soon(layer.receive(name)) == {"type": "n", "n": 2}
        await layer.send(name, {"type": "n", "n": 3})
        assert await soon(layer.receive(name)) == {"type": "n", "n": 3}

    asyncio.run(main())


def test_a_slow_consumer_is_bounded_in_bytes() -> None:
    async def main() -> None:
        (layer,) = layers(1, mailbox_bytes=2500)
        member = await layer.new_channel()
        await layer.group_add("g", member)
        for number in range(5):
            await layer.group_send("g", {"type": "x", "n": number, "text": "x" * 1000})
        assert layer.statistics()["dropped"] == 2
        assert [(await soon(layer.receive(member)))["n"] for _ in range(3)] == [0, 1, 2]

    asyncio.run(main())


def test_a_channel_may_be_in_very_many_groups() -> None:
    """To look at all of its groups for each of them would take minutes where there are 40,000."""
    count = 1000

    async def main() -> None:
        (layer,) = layers(1)
        consumer = Consumer()
        name = await name_of(consumer, layer)
        for number in range(count):
            await layer.group_add(f"g{number}", name)
        topics = node_in(layer).local_channels._channels[name].topics
        assert isinstance(topics, dict), "where a name is found without a look at all"
        await layer.group_add("g7", name)
        await layer.group_discard("g8", name)
        for number in (7, 8, 9):
            await layer.group_send(f"g{number}", {"type": "x", "n": number})
        assert [(await layer.receive(name))["n"] for _ in range(2)] == [7, 9]
        calls = 0

        def count_call(*event: object) -> None:
            nonlocal calls
            calls += 1

        del consumer
        sys.setprofile(count_call)
        await forgotten()
        sys.setprofile(None)
        assert len(topics) == 0
        assert calls < 100 * count
        while layer.statistics()["topics"] > 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_many_memberships_that_end_by_themselves() -> None:
    async def main() -> None:
        (layer,) = layers(1, group_expiry=2.0)
        names = [await layer.new_channel() for _ in range(3)]
        for number in range(20):
            for name in names:
                await layer.group_add(f"g{number}", name)
        while layer.statistics()["channels"]:
            await asyncio.sleep(0.01)
        await layer.group_add("g", names[0])
        assert layer.statistics()["channels"] == 1

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_end_of_a_consumer_whose_channel_was_not_used_is_no_error() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.new_channel()
        local_channels = node_in(layer).local_channels
        consumer = type("Consumer", (), {})()
        name = local_channels.new("specific", consumer, asyncio.current_task())
        local_channels._consumer_ended(name)
        await layer.send(name, {"type": "n", "n": 1})
        assert name not in local_channels, "what is sent to it later is dropped"

    asyncio.run(main())
