"""Messages to all but some members, to several groups, and with an idempotency key, over every broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from django_anyio_channels import AnyioChannelLayer, NotSupported, PublishResult, user_groups
from django_anyio_channels.core.capabilities import SupportsIdempotency

from .processes import Processes, n, numbers, receive, rest, soon

pytestmark = [pytest.mark.anyio, pytest.mark.encrypted_only, pytest.mark.measured_in_memory]


async def member(layer: AnyioChannelLayer, *groups: str) -> str:
    """A new channel in these groups."""
    channel = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    return channel


def has_history(layer: AnyioChannelLayer) -> bool:
    return layer._settings.make_layers()[0].retention > 0


def remembers_keys(layer: AnyioChannelLayer) -> bool:
    return isinstance(layer._settings.make_layers()[0], SupportsIdempotency)


async def everywhere(layer: AnyioChannelLayer, call: str, *args: Any, **options: Any) -> None:
    """Call a method, and then its twin for synchronous code."""
    await soon(getattr(layer, call)(*args, **options))
    await soon(sync_to_async(getattr(layer, f"{call}_sync"), thread_sensitive=False)(*args, **options))


# ---- exclude -------------------------------------------------------------------------------------------------------


async def test_excluded_channels_of_any_process_get_nothing(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    mine, other, theirs = await member(one, "g"), await member(one, "g"), await member(two, "g")
    await everywhere(one, "group_send", "g", n(1), exclude=mine)
    await everywhere(two, "group_send", "g", n(2), exclude=[theirs, mine])
    await one.group_send("g", n(3), exclude=[])
    assert await rest(one, mine, sender=one) == [n(3)]
    assert sorted(await numbers(one, other, 5)) == [1, 1, 2, 2, 3]
    assert sorted(await numbers(two, theirs, 3)) == [1, 1, 3]
    assert await rest(two, theirs, sender=one) == []


async def test_what_excludes_a_channel_takes_no_room_in_its_mailbox(processes: Processes) -> None:
    layer = processes.new(capacity=3)
    channel, witness = await member(layer, "g"), await member(layer, "g")
    for number in range(5):
        await layer.group_send("g", n(number), exclude=channel)
        assert await numbers(layer, witness, 1) == [number]
    await layer.group_send("g", n(5))
    assert await numbers(layer, channel, 1) == [5]
    assert layer.statistics()["dropped"] == 0


async def test_a_normal_channel_in_the_group_can_be_excluded(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    await one.group_add("g", "jobs")
    await one.group_add("g", "other-jobs")
    await everywhere(two, "group_send", "g", n(1), exclude="jobs")
    await two.group_send("g", n(2))
    assert await numbers(one, "jobs", 1) == [2]
    assert await numbers(one, "other-jobs", 3) == [1, 1, 2]


async def test_history_has_what_excluded_a_channel_but_not_for_it(processes: Processes) -> None:
    layer = processes.new()
    if not has_history(layer):
        return
    channel, other = await layer.new_channel(), await layer.new_channel()
    for number in range(3):
        await layer.group_send("g", n(number), exclude=channel if number == 1 else None)
    assert [event.message for event in await layer.group_history("g")] == [n(0), n(1), n(2)]
    for each, expected in ((channel, [0, 2, 3]), (other, [0, 1, 2, 3])):
        await layer.group_resume("g", each, last=3)
        await layer.group_send("g", n(3), exclude=other if each == channel else None)
        assert await numbers(layer, each, len(expected)) == expected
        await layer.group_discard("g", each)
        await layer.flush()
        for number in range(3):
            await layer.group_send("g", n(number), exclude=channel if number == 1 else None)


# ---- several groups ------------------------------------------------------------------------------------------------


async def test_a_member_of_several_groups_gets_one_message(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    groups = ["g", "h", "i"]
    for layer in (one, two):
        channels = {await member(layer, *groups): 1, await member(layer, "h"): 1, await member(layer, "x"): 0}
        for sender in (one, two):
            await everywhere(sender, "group_send", groups, n(1))
            await everywhere(sender, "group_send", (*groups, "g"), n(2), exclude="nobody")
            for channel, count in channels.items():
                expected = [n(1), n(1), n(2), n(2)] * count
                assert await receive(layer, channel, len(expected)) == expected
        for channel in channels:
            assert await rest(layer, channel, sender=one) == []
            assert await rest(layer, channel, sender=two) == []


async def test_a_normal_channel_in_several_groups_gets_one_message(processes: Processes) -> None:
    layer = processes.new()
    for group in ("g", "h"):
        await layer.group_add(group, "jobs")
    for number in range(2):
        await layer.group_send(["g", "h", "i"], n(number))
    await layer.group_send("g", n(2))
    assert await numbers(layer, "jobs", 3) == [0, 1, 2]


async def test_each_group_keeps_its_copy_and_who_resumes_both_gets_one(processes: Processes) -> None:
    layer = processes.new()
    if not has_history(layer):
        return
    await layer.group_send(["g", "h"], n(1))
    for group in ("g", "h"):
        assert [event.message for event in await layer.group_history(group)] == [n(1)]
    channel = await layer.new_channel()
    for group in ("g", "h"):
        await layer.group_resume(group, channel, last=10)
    await layer.group_send(["h", "g"], n(2))
    await layer.group_send("h", n(3))
    assert await numbers(layer, channel, 3) == [1, 2, 3]
    assert await rest(layer, channel) == []


# ---- users ---------------------------------------------------------------------------------------------------------


async def test_users_are_reached_in_all_processes(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    (group,) = user_groups(7)
    mine, theirs = await member(one, group), await member(two, group)
    await everywhere(two, "user_send", "7", n(1), exclude=theirs)
    await everywhere(one, "user_send", 7, n(2))
    assert sorted(await numbers(one, mine, 4)) == [1, 1, 2, 2]
    assert await numbers(two, theirs, 2) == [2, 2]
    await soon(two.user_close(7, 4001))
    for layer, channel in ((one, mine), (two, theirs)):
        assert await receive(layer, channel, 1) == [{"type": "anyio_channels.close", "code": 4001}]
    if has_history(one):
        assert [event.message for event in await one.group_history(group)] == [n(1), n(1), n(2), n(2)]
        last = await one.new_channel()
        await one.group_resume(group, last, last=2)
        assert await rest(one, last) == [n(2)]


# ---- idempotency keys ----------------------------------------------------------------------------------------------


async def test_the_second_message_with_a_key_is_not_sent(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    channel = await member(one, "g", "h")
    if not remembers_keys(one):
        for call, target in (("group_send", "g"), ("send", channel), ("send", "jobs")):
            with pytest.raises(NotSupported, match="use Redis, PostgreSQL or the in-memory layer"):
                await everywhere(one, call, target, n(1), idempotency_key="k")
        return
    await one.group_add("g", "jobs")
    await one.group_add("h", "jobs")
    first = await soon(one.group_send("g", n(1), idempotency_key="k"))
    assert isinstance(first, PublishResult)
    assert (first.position is not None) == has_history(one)
    for sender in (one, two):
        assert await soon(sender.group_send("g", n(2), idempotency_key="k")) == first
        await everywhere(sender, "group_send", ["g", "h"], n(3), idempotency_key="several")
        await everywhere(sender, "group_send", "h", n(4), idempotency_key="k", exclude="jobs")
        await everywhere(sender, "send", channel, n(5), idempotency_key="k")
        await everywhere(sender, "send", "jobs", n(6), idempotency_key="k2")
    assert sorted(await numbers(one, channel, 4)) == [1, 3, 4, 5]
    assert sorted(await numbers(one, "jobs", 3)) == [1, 3, 6]
    assert await rest(one, channel, sender=one) == await rest(one, channel, sender=two) == []


async def test_concurrent_messages_with_a_key_are_one(processes: Processes) -> None:
    layers = [processes.new(), processes.new()]
    if not remembers_keys(layers[0]):
        return
    channel = await member(layers[0], "g")
    calls = [layer.group_send("g", n(1), idempotency_key="k") for layer in layers for _ in range(5)]
    calls += [layer.send("jobs", n(2), idempotency_key="k") for layer in layers for _ in range(5)]
    results = await soon(asyncio.gather(*calls))
    assert len(set(results[:10])) == 1
    assert await rest(layers[0], channel) == [n(1)]
    await layers[1].send("jobs", n(3))
    assert await numbers(layers[0], "jobs", 2) == [2, 3]


async def test_a_message_that_found_no_room_can_be_sent_again_with_its_key(processes: Processes) -> None:
    layer = processes.new(capacity=1)
    if not remembers_keys(layer):
        return
    await layer.send("jobs", n(1), idempotency_key="a")
    await layer.send("jobs", n(1), idempotency_key="a")
    with pytest.raises(layer.ChannelFull):
        await layer.send("jobs", n(2), idempotency_key="b")
    assert await numbers(layer, "jobs", 1) == [1]
    await layer.send("jobs", n(2), idempotency_key="b")
    assert await numbers(layer, "jobs", 1) == [2]


async def test_flush_forgets_keys(processes: Processes) -> None:
    layer = processes.new()
    if not remembers_keys(layer):
        return
    for _ in range(2):
        channel = await member(layer, "g")
        await layer.group_send("g", n(1), idempotency_key="k")
        await layer.send("jobs", n(2), idempotency_key="k")
        assert await numbers(layer, channel, 1) == [1]
        assert await numbers(layer, "jobs", 1) == [2]
        await layer.flush()
