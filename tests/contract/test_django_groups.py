"""Channels' specification: the ``groups`` extension, within one process and across several."""

from __future__ import annotations

import asyncio
import random
import string

import pytest

from django_anyio_channels import AnyioChannelLayer

from .kinds import Broker
from .processes import Processes, n, numbers, receive, rest, soon, until

# It is about the way of the payloads, not about what is in them.
pytestmark = [pytest.mark.anyio, pytest.mark.encrypted_only, pytest.mark.measured_in_memory]


LOCAL = pytest.mark.memory_only("It happens in the process, after a broker: `django.nodes.local_channels`.")


async def members(layer: AnyioChannelLayer, group: str, count: int) -> list[str]:
    """So many new channels in a group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


async def test_every_member_gets_each_message(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    mine, theirs = await members(one, "g", 3), await members(two, "g", 2)
    stranger = await one.new_channel()
    await one.group_send("g", n(1))
    await two.group_send("g", n(2))
    for layer, channels in ((one, mine), (two, theirs)):
        for channel in channels:
            assert sorted(await numbers(layer, channel, 2)) == [1, 2]
    assert await rest(one, stranger) == []


async def test_a_member_that_left_gets_nothing(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    first, second, third = await members(layer, "g", 3)
    await layer.group_discard("g", second)
    await other.group_send("g", n(1))
    for channel, expected in ((first, [n(1)]), (second, []), (third, [n(1)])):
        assert await rest(layer, channel, sender=other) == expected


@LOCAL
async def test_adding_twice_is_being_in_it_once(processes: Processes) -> None:
    layer = processes.new()
    (channel,) = await members(layer, "g", 1)
    await layer.group_add("g", channel)
    await layer.group_send("g", n(1))
    assert await rest(layer, channel) == [n(1)]
    await layer.group_discard("g", channel)
    await layer.group_send("g", n(2))
    assert await rest(layer, channel) == []


async def test_coming_back_works(processes: Processes) -> None:
    """What was sent meanwhile is gone, once it has reached the process; a witness tells when it has."""
    layer, other = processes.new(), processes.new()
    channel, witness = await members(layer, "g", 2)
    for number in range(20):
        await layer.group_discard("g", channel)
        await other.group_send("g", n(-1))
        assert await receive(layer, witness, 1) == [n(-1)]
        await layer.group_add("g", channel)
        await other.group_send("g", n(number))
        assert await receive(layer, witness, 1) == [n(number)]
        assert await rest(layer, channel, sender=other) == [n(number)]


async def test_discarding_strangers_is_no_error(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    channel, gone = await layer.new_channel(), "specific.0123456789abcdef!0.x"
    for group in ("never", "g"):
        for stranger in (channel, "normal", await other.new_channel(), gone):
            await soon(layer.group_discard(group, stranger))
        await layer.group_add("g", channel)
    await layer.group_send("g", n(1))
    assert await rest(layer, channel) == [n(1)]


async def test_adding_a_channel_of_a_gone_process_is_no_error(processes: Processes) -> None:
    layer = processes.new()
    await soon(layer.group_add("g", "specific.0123456789abcdef!0.x"))
    await layer.group_send("g", n(1))


async def test_a_group_of_nobody_accepts_messages(processes: Processes) -> None:
    layer = processes.new()
    await layer.group_send("nobody", n(1))
    (channel,) = await members(layer, "nobody", 1)
    assert await rest(layer, channel) == []


async def test_groups_with_a_common_beginning_are_different(processes: Processes) -> None:
    layer = processes.new()
    groups = ["g", "gg", "g.g", "G"]
    channels = {group: (await members(layer, group, 1))[0] for group in groups}
    for number, group in enumerate(groups):
        await layer.group_send(group, n(number))
    for number, group in enumerate(groups):
        assert await rest(layer, channels[group]) == [n(number)]


async def test_a_channel_in_many_groups_gets_the_messages_of_all(processes: Processes) -> None:
    layer, other = processes.new(capacity=1000), processes.new()
    channel = await layer.new_channel()
    for number in range(100):
        await layer.group_add(f"g{number}", channel)
    for number in range(100):
        await other.group_send(f"g{number}", n(number))
    assert sorted(await numbers(layer, channel, 100)) == list(range(100))
    for number in range(0, 100, 2):
        await layer.group_discard(f"g{number}", channel)
    for number in range(100):
        await other.group_send(f"g{number}", n(number))
    assert sorted(message["n"] for message in await rest(layer, channel, sender=other)) == list(range(1, 100, 2))


async def test_send_and_group_send_of_one_sender_arrive_in_order(processes: Processes, one_way_broker: Broker) -> None:
    layer, other = processes.new(), processes.new()
    (channel,) = await members(layer, "g", 1)
    await layer.group_add("h", channel)
    for number in range(90):
        if number % 3 == 0:
            await other.send(channel, n(number))
        else:
            await other.group_send("g" if number % 3 == 1 else "h", n(number))
    assert await numbers(layer, channel, 90) == list(range(90))


async def test_group_send_to_a_full_member_raises_nothing(processes: Processes) -> None:
    layer = processes.new(capacity=2)
    await layer.group_add("g", "normal")
    (channel,) = await members(layer, "g", 1)
    for number in range(10):
        await layer.group_send("g", n(number))
    assert await numbers(layer, channel, 2) == [0, 1]
    assert await numbers(layer, "normal", 2) == [0, 1]
    assert await rest(layer, "normal") == []


@LOCAL
async def test_a_group_of_a_thousand_members(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    channels = await members(layer, "g", 1000)
    await other.group_send("g", n(1))
    await other.group_send("g", n(2))
    for channel in channels:
        assert await numbers(layer, channel, 2) == [1, 2]


@LOCAL
async def test_a_slow_member_costs_the_others_nothing(processes: Processes) -> None:
    layer = processes.new(capacity=5)
    slow, quick = await members(layer, "g", 2)
    for number in range(500):
        await layer.group_send("g", n(number))
        assert await numbers(layer, quick, 1) == [number]
    assert await numbers(layer, slow, 5) == [0, 1, 2, 3, 4]


# ---- normal channels ---------------------------------------------------------------------------------------------


async def test_a_normal_channel_may_be_a_member(processes: Processes) -> None:
    layer, worker = processes.new(), processes.new()
    await layer.group_add("g", "worker")
    await layer.group_add("g", "worker")
    await layer.group_send("g", n(1))
    await worker.group_send("g", n(2))
    assert sorted(await numbers(worker, "worker", 2)) == [1, 2]
    await worker.group_discard("g", "worker")
    await layer.group_send("g", n(3))
    assert await rest(worker, "worker", sender=layer) == []


async def test_each_message_for_a_normal_member_goes_to_one_of_its_readers(processes: Processes) -> None:
    """However many processes have members of their own in the group."""
    layers = [processes.new() for _ in range(3)]
    for layer in layers:
        await members(layer, "g", 1)
        await layer.group_add("g", "worker")
    for number in range(30):
        await layers[number % 3].group_send("g", n(number))
    found = [message["n"] for number in range(30) for message in await receive(layers[number % 3], "worker", 1)]
    assert sorted(found) == list(range(30))
    assert await rest(layers[0], "worker") == []


async def test_a_waiting_worker_is_woken_by_a_group(processes: Processes) -> None:
    layer, worker = processes.new(), processes.new()
    await layer.group_add("g", "worker")
    reading = asyncio.ensure_future(worker.receive("worker"))
    for _ in range(20):
        await asyncio.sleep(0)
    await layer.group_send("g", n(1))
    assert await soon(reading) == n(1)


# ---- channels of others ------------------------------------------------------------------------------------------


async def test_group_add_of_another_processs_channel_is_in_effect_when_it_returns(processes: Processes) -> None:
    owner, other, third = processes.new(), processes.new(), processes.new()
    for number in range(10):
        channel, group = await owner.new_channel(), f"g{number}"
        await soon(other.group_add(group, channel))
        await third.group_send(group, n(number))
        assert await numbers(owner, channel, 1) == [number]
        await soon(other.group_discard(group, channel))
        await third.group_send(group, n(-1))
        assert await rest(owner, channel, sender=third) == []


async def test_anybody_may_end_a_membership(processes: Processes) -> None:
    owner, other = processes.new(), processes.new()
    (channel,) = await members(owner, "g", 1)
    await soon(other.group_discard("g", channel))
    await owner.group_send("g", n(1))
    assert await rest(owner, channel) == []


# ---- expiry ------------------------------------------------------------------------------------------------------


@pytest.mark.memory_only("Memberships end in the process; for bindings of each broker see `test_bindings`.")
async def test_a_membership_ends_group_expiry_after_the_last_group_add(processes: Processes) -> None:
    layer = processes.new(group_expiry=2.5)
    ending, renewed = await members(layer, "g", 2)
    await layer.group_add("g", "normal")
    await layer.group_send("g", n(1))
    for _ in range(4):
        await asyncio.sleep(0.65)
        await layer.group_add("g", renewed)
    await layer.group_send("g", n(2))
    assert await rest(layer, ending) == [n(1)]
    assert await rest(layer, renewed) == [n(1), n(2)]
    assert await rest(layer, "normal") == [n(1)]
    await until(lambda: layer.statistics()["channels"] == 0)


@LOCAL
async def test_a_membership_outlives_an_expired_message(processes: Processes) -> None:
    layer = processes.new(expiry=2.0)
    (channel,) = await members(layer, "g", 1)
    await layer.group_send("g", n(1))
    await asyncio.sleep(2.3)
    await layer.group_send("g", n(2))
    assert await rest(layer, channel) == [n(2)]


# ---- many at once ------------------------------------------------------------------------------------------------


async def test_many_members_come_and_go_at_once(processes: Processes) -> None:
    """What a member received is what was sent between its coming and its going, whoever else came and went."""
    layers = [processes.new(capacity=1000) for _ in range(2)]
    chance = random.Random(7)

    async def come_and_go(number: int) -> None:
        layer, group = layers[number % 2], f"g{number % 4}"
        channel, witness = await layer.new_channel(), await layer.new_channel()
        await layer.group_add(group, witness)

        async def send_and_see(round_: int | str) -> None:
            message = {"type": "x", "from": number, "round": round_}
            await layer.group_send(group, message)
            while await layer.receive(witness) != message:
                pass

        for round_ in range(5):
            await layer.group_add(group, channel)
            await send_and_see(round_)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            await layer.group_discard(group, channel)
            await send_and_see("not me")
        await layer.group_discard(group, witness)
        await rest(layer, witness)
        mine = [message for message in await rest(layer, channel) if message["from"] == number]
        assert [message["round"] for message in mine] == list(range(5))

    await soon(asyncio.gather(*[come_and_go(number) for number in range(20)]))
    await until(lambda: all(layer.statistics()["channels"] == 0 for layer in layers))


async def test_group_add_cancelled_anywhere_leaves_the_group_usable(processes: Processes) -> None:
    layer = processes.new()
    for turns in range(15):
        group = "".join(random.choices(string.ascii_letters, k=10))
        channel = await layer.new_channel()
        adding = asyncio.ensure_future(layer.group_add(group, channel))
        for _ in range(turns):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.wait([adding])
        await layer.group_send(group, n(1))
        assert await rest(layer, channel) == ([] if adding.cancelled() else [n(1)])
        await layer.group_add(group, channel)
        await layer.group_send(group, n(2))
        assert await rest(layer, channel) == [n(2)]
        await layer.group_discard(group, channel)
    await until(lambda: layer.statistics()["channels"] == 0)
