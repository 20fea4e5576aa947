"""`receive` under cancellation, on prefixes, and what is left when readers have gone."""

from __future__ import annotations

import asyncio
import random

import pytest

from django_anyio_channels import AnyioChannelLayer

from .kinds import Kind
from .processes import Message, Processes, n, numbers, receive, rest, soon, until

# It is about the way of the payloads, not about what is in them.
pytestmark = [pytest.mark.anyio, pytest.mark.encrypted_only, pytest.mark.measured_in_memory]

LOCAL = pytest.mark.memory_only("It happens in the process, after a broker: `django.nodes.local_channels`.")

NORMAL_OR_SPECIFIC = pytest.mark.parametrize("normal", [True, False], ids=["normal", "specific"])


async def a_channel(layer: AnyioChannelLayer, normal: bool) -> str:
    return "normal-channel" if normal else await layer.new_channel()


@NORMAL_OR_SPECIFIC
async def test_polling_with_wait_for_loses_nothing_and_ends_no_membership(
    processes: Processes, kind: Kind, normal: bool
) -> None:
    layer, other = processes.new(), processes.new()
    channel = await a_channel(layer, normal)
    await layer.group_add("g", channel)
    sent = 60
    received: list[int] = []

    async def trickle() -> None:
        for number in range(sent):
            if number % 2:
                await other.send(channel, n(number))
            else:
                await other.group_send("g", n(number))
            await asyncio.sleep(random.Random(number).choice([0, 0.001, 0.004]))

    trickling = asyncio.ensure_future(trickle())
    polls = timeouts = 0
    while polls < 50 or len(received) < sent or not timeouts:
        polls += 1
        try:
            received.append((await asyncio.wait_for(layer.receive(channel), 0.002))["n"])
        except TimeoutError:
            timeouts += 1
    await soon(trickling)
    ways = 1 if kind.one_way else 2
    for way in range(ways):
        assert [number for number in received if number % ways == way] == list(range(way, sent, ways))
    await other.group_send("g", n(sent))
    assert await numbers(layer, channel, 1) == [sent]


@NORMAL_OR_SPECIFIC
async def test_a_receive_cancelled_in_the_moment_of_arrival_loses_nothing(processes: Processes, normal: bool) -> None:
    layer, other = processes.new(), processes.new()
    channel = await a_channel(layer, normal)
    received: list[Message] = []
    for turns in range(12):
        reading = asyncio.ensure_future(layer.receive(channel))
        for _ in range(20):
            await asyncio.sleep(0)
        await other.send(channel, n(2 * turns))
        await other.send(channel, n(2 * turns + 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            received.append(reading.result())
        received += await rest(layer, channel, sender=other)
    assert [message["n"] for message in received] == list(range(24))


@LOCAL
async def test_a_cancelled_reader_leaves_the_message_to_another(processes: Processes) -> None:
    layer = processes.new()
    channel = await layer.new_channel()
    for turns in range(6):
        leaving, staying = (asyncio.ensure_future(layer.receive(channel)) for _ in range(2))
        for _ in range(20):
            await asyncio.sleep(0)
        await layer.send(channel, n(turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        if not leaving.cancelled():
            await layer.send(channel, n(turns))
        assert await soon(staying) == n(turns)


@LOCAL
async def test_a_member_that_does_not_read_now_stays_a_member(processes: Processes) -> None:
    """Between two calls of `receive` nobody waits; the membership doesn't mind."""
    layer = processes.new()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    for number in range(20):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.001)
        await layer.group_send("g", n(number))
        assert await numbers(layer, channel, 1) == [number]


# ---- prefixes ----------------------------------------------------------------------------------------------------


@LOCAL
async def test_a_reader_on_the_process_prefix_gets_what_is_sent_to_every_local_name(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    first, second = await layer.new_channel(), await layer.new_channel()
    prefix = first[: first.index("!") + 1]
    assert second.startswith(prefix)
    await other.send(first, n(0))
    for number, channel in enumerate([second, first, prefix + "local", prefix], start=1):
        await other.send(channel, n(number))
    assert sorted(await numbers(layer, prefix, 5)) == [0, 1, 2, 3, 4]
    reading = asyncio.ensure_future(layer.receive(prefix))
    for _ in range(20):
        await asyncio.sleep(0)
    await other.send(second, n(5))
    assert await soon(reading) == n(5)


@LOCAL
async def test_a_prefix_reader_keeps_the_order_of_each_name(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    channels = [await layer.new_channel() for _ in range(3)]
    prefix = channels[0][: channels[0].index("!") + 1]
    for number in range(30):
        await other.send(channels[number % 3], n(number))
    received = await numbers(layer, prefix, 30)
    for remainder in range(3):
        assert [number for number in received if number % 3 == remainder] == list(range(remainder, 30, 3))


@LOCAL
async def test_a_reader_of_a_name_and_a_reader_of_its_prefix_share_without_loss(processes: Processes) -> None:
    layer = processes.new()
    channel = await layer.new_channel()
    prefix = channel[: channel.index("!") + 1]
    received: list[int] = []

    async def read(name: str) -> None:
        while True:
            received.append((await layer.receive(name))["n"])

    readers = [asyncio.ensure_future(read(name)) for name in (channel, prefix)]
    for number in range(60):
        await layer.send(channel, n(number))
        await asyncio.sleep(0)
    await until(lambda: len(received) == 60)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    assert sorted(received) == list(range(60))


@LOCAL
async def test_polling_a_prefix_loses_nothing(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    channel = await layer.new_channel()
    prefix = channel[: channel.index("!") + 1]
    received: list[int] = []

    async def trickle() -> None:
        for number in range(40):
            await other.send(channel, n(number))
            await asyncio.sleep(0.001 * (number % 3))

    trickling = asyncio.ensure_future(trickle())
    while len(received) < 40:
        try:
            received.append((await asyncio.wait_for(layer.receive(prefix), 0.001))["n"])
        except TimeoutError:
            continue
    await soon(trickling)
    assert received == list(range(40))


# ---- what is left ------------------------------------------------------------------------------------------------


@LOCAL
async def test_names_cost_nothing_until_they_are_used_and_nothing_afterwards(plain_processes: Processes) -> None:
    layer = plain_processes.new()
    channels = [await layer.new_channel() for _ in range(100)]
    assert layer.statistics()["channels"] == 0
    topics = layer.statistics()["topics"]
    for channel in channels:
        await layer.group_add("g", channel)
        await layer.send(channel, n(1))
    assert (layer.statistics()["channels"], layer.statistics()["topics"]) == (100, topics + 1)
    for channel in channels:
        await receive(layer, channel, 1)
        await layer.group_discard("g", channel)
    assert layer.statistics()["channels"] == 0
    await until(lambda: layer.statistics()["topics"] == topics)


@LOCAL
async def test_a_cancelled_receive_leaves_no_name(plain_processes: Processes) -> None:
    layer = plain_processes.new()
    for _ in range(50):
        reading = asyncio.ensure_future(layer.receive(await layer.new_channel()))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    assert layer.statistics()["channels"] == 0


@LOCAL
async def test_a_name_that_was_made_in_a_short_task_lives(processes: Processes) -> None:
    layer = processes.new()
    for turns in range(5):
        channel = await asyncio.ensure_future(layer.new_channel())
        for _ in range(turns):
            await asyncio.sleep(0)
        await layer.group_add("g", channel)
        await layer.group_send("g", n(1))
        await layer.send(channel, n(2))
        assert sorted(await numbers(layer, channel, 2)) == [1, 2]
        await layer.group_discard("g", channel)


@LOCAL
async def test_a_membership_that_was_made_in_a_short_task_lives(processes: Processes) -> None:
    """As in a test's fixture, or between two calls of ``run_until_complete``."""
    layer = processes.new()

    async def fixture() -> str:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.send(channel, n(1))
        return channel

    channel = await asyncio.ensure_future(fixture())
    for _ in range(20):
        await asyncio.sleep(0)
    await layer.group_send("g", n(2))
    assert sorted(await numbers(layer, channel, 2)) == [1, 2]
