"""Channels' specification: names, messages, order, capacity and expiry of single channels."""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
import uuid
from typing import Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from .helpers import trying
from .processes import Message, Processes, n, numbers, receive, rest, soon, until

pytestmark = [pytest.mark.anyio, pytest.mark.measured_in_memory]

CHECKED_FIRST = pytest.mark.memory_only("The layer checks and encodes before it asks a broker.")
LOCAL = pytest.mark.memory_only("It happens in the process, before or after a broker: `django.nodes.local_channels`.")

BOTH_KINDS = pytest.mark.parametrize("normal", [True, False], ids=["normal", "specific"])


async def a_channel(layer: BaseChannelLayer, normal: bool) -> str:
    return "normal-channel" if normal else await layer.new_channel()


# ---- the interface -----------------------------------------------------------------------------------------------


@CHECKED_FIRST
async def test_it_has_what_the_specification_names(plain_processes: Processes) -> None:
    layer = plain_processes.new()
    assert isinstance(layer, BaseChannelLayer)
    assert layer.extensions == ["groups", "flush"]
    assert layer.ChannelFull is ChannelFull
    assert layer.MessageTooLarge is MessageTooLarge
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)


@CHECKED_FIRST
async def test_settings_are_what_the_specification_calls_them(plain_processes: Processes) -> None:
    layer = plain_processes.new(
        expiry=7, group_expiry=70, capacity=3, channel_capacity={"http.*": 5, re.compile("x"): 9}
    )
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (7, 70, 3)
    assert [layer.get_capacity(name) for name in ("http.request", "x", "other")] == [5, 9, 3]


# ---- messages ----------------------------------------------------------------------------------------------------

SAMPLES: list[dict[str, Any]] = [
    {"type": "x"},
    {"type": "chat", "text": "Ahoy-hoy!"},
    {"type": "x", "text": "emoji \N{GRINNING FACE}, NUL \0, Ωμέγα, \u2028"},
    {"type": "x", "bytes": bytes(range(256)), "empty": b""},
    {
        "type": "x",
        "numbers": [0, -1, 2**63 - 1, -(2**63), 1.5, -0.0, math.pi, math.inf, sys.float_info.min, sys.float_info.max],
    },
    {"type": "x", "nested": {"list": [[], [{}, {"deep": [None, True, False]}]], "": {"": ""}}},
    {"type": "x", "1": 1, "true": True, "none": None},
]


@BOTH_KINDS
async def test_messages_arrive_exactly(processes: Processes, normal: bool) -> None:
    layer, other = processes.new(), processes.new()
    channel = await a_channel(layer, normal)
    for message in SAMPLES:
        with trying(message):
            await other.send(channel, message)
            (received,) = await receive(layer, channel, 1)
            assert repr(received) == repr(message), "equal, of the same types, in the same order"


@CHECKED_FIRST
async def test_tuples_become_lists(processes: Processes) -> None:
    layer = processes.new()
    await layer.send("c", {"type": "x", "tuple": (1, ("a", (b"b",)))})
    assert await receive(layer, "c", 1) == [{"type": "x", "tuple": [1, ["a", [b"b"]]]}]


@CHECKED_FIRST
@BOTH_KINDS
@pytest.mark.parametrize(
    "value",
    [{1, 2}, uuid.uuid4(), object(), 2**64, -(2**63) - 1, "\ud800", [{"deep": {3}}]],
    ids=["set", "uuid", "object", "huge", "tiny", "surrogate", "deep"],
)
async def test_what_cannot_be_encoded_raises_at_the_sender_and_breaks_nothing(
    processes: Processes, normal: bool, value: object
) -> None:
    layer = processes.new()
    channel = await a_channel(layer, normal)
    with pytest.raises(TypeError, match="cannot be sent"):
        await layer.send(channel, {"type": "x", "value": value})
    with pytest.raises(TypeError, match="cannot be sent"):
        await layer.group_send("group", {"type": "x", "value": value})
    assert await rest(layer, channel) == []


@CHECKED_FIRST
@pytest.mark.parametrize("message", [None, "text", b"bytes", 1, [("type", "x")], ["type"]])
async def test_a_message_must_be_a_dict(plain_processes: Processes, message: Message) -> None:
    layer = plain_processes.new()
    for send in (layer.send("c", message), layer.group_send("g", message)):
        with pytest.raises((TypeError, AssertionError), match="dict"):
            await send


@CHECKED_FIRST
@BOTH_KINDS
async def test_nobody_changes_anybodys_message(processes: Processes, normal: bool) -> None:
    layer = processes.new()
    channels = [await a_channel(layer, normal), await layer.new_channel(), await layer.new_channel()]
    for channel in channels:
        await layer.group_add("group", channel)
    message: dict[str, Any] = {"type": "x", "list": [1], "dict": {"a": 1}}
    await layer.group_send("group", message)
    message["list"] = None
    for channel in channels:
        (received,) = await receive(layer, channel, 1)
        assert received == {"type": "x", "list": [1], "dict": {"a": 1}}
        received["list"].append(2)
        received["dict"].clear()


@BOTH_KINDS
async def test_a_megabyte_arrives(processes: Processes, normal: bool) -> None:
    layer, other = processes.new(), processes.new()
    channel = await a_channel(layer, normal)
    message = {"type": "big", "text": "x" * 500_000, "bytes": random.Random(1).randbytes(500_000)}
    await other.send(channel, message)
    await layer.group_add("group", channel)
    await other.group_send("group", message)
    assert await receive(layer, channel, 2) == [message, message]


@CHECKED_FIRST
@BOTH_KINDS
async def test_what_is_larger_than_allowed_raises_and_names_the_setting(processes: Processes, normal: bool) -> None:
    layer = processes.new(max_message_size=2000)
    channel = await a_channel(layer, normal)
    await layer.group_add("group", channel)
    for send in (
        layer.send(channel, {"type": "x", "b": b"x" * 2000}),
        layer.group_send("group", {"type": "x", "b": b"x" * 2000}),
    ):
        with pytest.raises(MessageTooLarge, match=r"bytes; max_message_size is 2000"):
            await send
    await layer.send(channel, {"type": "x", "b": b"x" * 1000})
    assert await rest(layer, channel) == [{"type": "x", "b": b"x" * 1000}]


# ---- names -------------------------------------------------------------------------------------------------------

GOOD_NAMES = ["a", "A-b_c.9", "...", "http.request", "x" * 99]
BAD_NAMES = [
    "",
    " ",
    "with space",
    "tab\t",
    "newline\n",
    "\nnewline",
    "na\u00efve",
    "arabic\u0663digit",
    "devanagari\u0967",
    "slash/",
    "colon:",
    "star*",
    "=+135",
    "question?",
    "nul\0",
    "x" * 101,
    b"bytes",
    None,
    5,
    ["list"],
]
BAD_CHANNEL_NAMES = [
    *BAD_NAMES,
    "two!exclamation!marks",
    "!",
    "!x",
    "a!newline\n",
    "a!arabic\u0663",
    "a!b c",
    "a!na\u00efve",
]


@CHECKED_FIRST
@pytest.mark.parametrize("name", GOOD_NAMES)
async def test_good_names_are_accepted(processes: Processes, name: str) -> None:
    layer = processes.new()
    await layer.send(name, n(1))
    await layer.group_add(name, name)
    await layer.group_send(name, n(2))
    assert sorted(await numbers(layer, name, 2)) == [1, 2]
    await layer.group_discard(name, name)
    await layer.group_send(name, n(3))
    assert await rest(layer, name) == []


@CHECKED_FIRST
@pytest.mark.parametrize("name", BAD_CHANNEL_NAMES, ids=ascii)
async def test_bad_channel_names_raise_type_error(plain_processes: Processes, name: str) -> None:
    layer = plain_processes.new()
    calls = [layer.send(name, n(1)), layer.receive(name), layer.group_add("g", name), layer.group_discard("g", name)]
    for call in calls:
        with pytest.raises(TypeError, match="Channel name must be"):
            await soon(call)
    for sync_call in (layer.group_add_sync, layer.group_discard_sync):
        with pytest.raises(TypeError, match="Channel name must be"):
            sync_call("g", name)
    with pytest.raises(TypeError, match="Channel name must be"):
        layer.send_sync(name, n(1))


@CHECKED_FIRST
@pytest.mark.parametrize("name", [*BAD_NAMES, "exclamation!mark", "a!"], ids=ascii)
async def test_bad_group_names_raise_type_error(plain_processes: Processes, name: str) -> None:
    layer = plain_processes.new()
    groups = name if isinstance(name, str) else [name]  # a list is one of names
    for call in (layer.group_send(groups, n(1)), layer.group_add(name, "c"), layer.group_discard(name, "c")):
        with pytest.raises(TypeError, match="Group name must be"):
            await soon(call)
    with pytest.raises(TypeError, match="Group name must be"):
        layer.group_send_sync(groups, n(1))
    for sync_call in (layer.group_add_sync, layer.group_discard_sync):
        with pytest.raises(TypeError, match="Group name must be"):
            sync_call(name, "c")


@LOCAL
async def test_receiving_on_a_name_of_another_or_a_gone_process_says_so(plain_processes: Processes) -> None:
    layer, other = plain_processes.new(), plain_processes.new()
    foreign = await other.new_channel()
    for name in (foreign, foreign[: foreign.index("!") + 1]):
        with pytest.raises(ValueError, match=r"new_channel\(\) is another one, has ended"):
            await soon(layer.receive(name))


@LOCAL
async def test_nobody_receives_on_a_name_with_an_exclamation_mark_that_nobody_made(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    for name in ("not-my-prefix!local", "not-my-prefix!"):
        await other.send(name, n(1))
        with pytest.raises(ValueError, match="Cannot receive on 'not-my-prefix!"):
            await soon(layer.receive(name))


@CHECKED_FIRST
async def test_channels_own_checks_still_work(plain_processes: Processes) -> None:
    layer = plain_processes.new()
    assert layer.valid_channel_names(["a", "b!c"])
    assert layer.require_valid_channel_name("a!", receive=True)
    with pytest.raises(TypeError, match="must end at the !"):
        layer.require_valid_channel_name("a!b", receive=True)
    assert layer.non_local_name("a!b") == "a!"


@CHECKED_FIRST
async def test_new_names_are_valid_unique_and_begin_as_wanted(processes: Processes) -> None:
    layer = processes.new()
    names = [await layer.new_channel() for _ in range(500)]
    assert len(set(names)) == 500
    assert all(name.startswith("specific.") and name.count("!") == 1 for name in names)
    assert all(layer.require_valid_channel_name(name) for name in names)
    assert (await layer.new_channel("http-response")).startswith("http-response")
    assert (await layer.new_channel(prefix="http.response.")).startswith("http.response.")
    with pytest.raises(TypeError):
        await layer.new_channel("bad prefix")
    with pytest.raises(TypeError):
        await layer.new_channel("a!b")
    with pytest.raises(TypeError):
        await layer.new_channel("x" * 90)


@LOCAL
async def test_names_of_any_prefix_receive(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    for prefix in ("specific.", "x", "a.b.c", "0123456789abcdef", "0123456789abcdef."):
        channel = await layer.new_channel(prefix)
        await other.send(channel, n(1))
        assert await numbers(layer, channel, 1) == [1]


# ---- one channel -------------------------------------------------------------------------------------------------


@BOTH_KINDS
async def test_messages_come_first_in_first_out(processes: Processes, normal: bool) -> None:
    layer, other = processes.new(), processes.new()
    channel = await a_channel(layer, normal)
    for number in range(90):
        await other.send(channel, n(number))
    assert await numbers(layer, channel, 90) == list(range(90))


@BOTH_KINDS
async def test_a_waiting_reader_is_woken(processes: Processes, normal: bool) -> None:
    layer, other = processes.new(), processes.new()
    channel = await a_channel(layer, normal)
    reading = asyncio.ensure_future(layer.receive(channel))
    for _ in range(20):
        await asyncio.sleep(0)
    await other.send(channel, n(1))
    assert await soon(reading) == n(1)


@BOTH_KINDS
async def test_every_message_goes_to_exactly_one_reader(processes: Processes, normal: bool) -> None:
    layers = [processes.new(capacity=1000) for _ in range(3)]
    channel = await a_channel(layers[0], normal)
    received: list[int] = []

    async def read(number: int) -> None:
        while True:
            received.append((await layers[number if normal else 0].receive(channel))["n"])
            if len(received) >= 200:
                everything.set()

    everything = asyncio.Event()
    readers = [asyncio.ensure_future(read(number % 3)) for number in range(9)]
    for number in range(200):
        await layers[number % 3].send(channel, n(number))
    await soon(everything.wait())
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    assert sorted(received) == list(range(200))
    assert await rest(layers[0], channel) == []


async def test_a_normal_channel_keeps_messages_before_any_reader(processes: Processes) -> None:
    layer = processes.new()
    for number in range(3):
        await layer.send("jobs", n(number))
    assert await numbers(processes.new(), "jobs", 3) == [0, 1, 2]


async def test_a_specific_channel_keeps_messages_before_its_reader(processes: Processes) -> None:
    layer, other = processes.new(), processes.new()
    channel = await layer.new_channel()
    await other.send(channel, n(1))
    await layer.send(channel, n(2))
    assert sorted(await numbers(layer, channel, 2)) == [1, 2]


async def test_channels_with_a_common_beginning_are_different(processes: Processes) -> None:
    layer = processes.new()
    for number, name in enumerate(["a", "ab", "a.b", "A"]):
        await layer.send(name, n(number))
    assert [await numbers(layer, name, 1) for name in ("A", "a.b", "ab", "a")] == [[3], [2], [1], [0]]


async def test_layers_with_different_prefixes_do_not_meet(processes: Processes) -> None:
    prefix = processes.config["prefix"]
    one, two = processes.new(), processes.new(prefix=f"{prefix}-2")
    channel = await two.new_channel()
    await one.group_add("g", "c")
    await two.group_add("g", "c")
    await two.group_add("g", channel)
    await one.send("c", n(1))
    await one.group_send("g", n(2))
    assert await rest(two, channel) == []
    assert await rest(two, "c") == []
    assert sorted(await numbers(one, "c", 2)) == [1, 2]


async def test_a_busy_channel_does_not_starve_a_quiet_one(processes: Processes) -> None:
    layer = processes.new(capacity=10_000)
    stop = False

    async def flood() -> None:
        number = 0
        while not stop:
            number += 1
            await layer.send("busy", n(number))
            await asyncio.sleep(0)

    async def read_busy() -> None:
        while not stop:
            await layer.receive("busy")

    tasks = [asyncio.ensure_future(flood()), asyncio.ensure_future(read_busy())]
    for number in range(20):
        await layer.send("quiet", n(number))
        assert await numbers(layer, "quiet", 1) == [number]
    stop = True
    await soon(tasks[0])
    tasks[1].cancel()
    await asyncio.wait(tasks)


# ---- capacity and expiry -----------------------------------------------------------------------------------------


async def test_a_normal_channel_at_its_capacity_raises_channel_full(processes: Processes) -> None:
    layer, other = processes.new(capacity=3), processes.new(capacity=3)
    for number in range(3):
        await layer.send("c", n(number))
    for sender in (layer, other):
        with pytest.raises(ChannelFull, match="c"):
            await sender.send("c", n(9))
    with pytest.raises(ChannelFull):
        await asyncio.to_thread(layer.send_sync, "c", n(9))
    assert await numbers(other, "c", 1) == [0]
    await layer.send("c", n(3))
    assert await numbers(layer, "c", 3) == [1, 2, 3]


@CHECKED_FIRST
async def test_capacities_by_name(processes: Processes) -> None:
    layer = processes.new(capacity=10, channel_capacity={"one": 1, "http.*": 2, re.compile(r"^r.x$"): 3, "*": 4})
    for channel, capacity in (("one", 1), ("http.request", 2), ("rex", 3), ("other", 4)):
        for number in range(capacity):
            await layer.send(channel, n(number))
        with pytest.raises(ChannelFull):
            await layer.send(channel, n(9))
        assert await numbers(layer, channel, capacity) == list(range(capacity))


@LOCAL
async def test_a_full_mailbox_drops_for_that_member_only(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    layer = processes.new(capacity=3)
    slow, quick = await layer.new_channel(), await layer.new_channel()
    for channel in (slow, quick):
        await layer.group_add("g", channel)
    for number in range(10):
        await layer.group_send("g", n(number))
        assert await numbers(layer, quick, 1) == [number]
    assert await numbers(layer, slow, 3) == [0, 1, 2]
    assert layer.statistics()["dropped"] == 7
    lines = [record.getMessage() for record in caplog.records if record.name == "django_anyio_channels"]
    assert [line.split(" (")[0] for line in lines] == [
        f"{slow} is full",
        f"{slow} takes messages again; 7 were dropped",
    ]


@LOCAL
async def test_capacities_of_specific_channels_by_their_names(processes: Processes) -> None:
    layer = processes.new(capacity=10, channel_capacity={"small.*!*": 2})
    small, large = await layer.new_channel("small"), await layer.new_channel("large")
    for channel in (small, large):
        await layer.group_add("g", channel)
    for number in range(5):
        await layer.group_send("g", n(number))
    assert await numbers(layer, large, 5) == list(range(5))
    assert await numbers(layer, small, 2) == [0, 1]
    assert await rest(layer, small) == []


@pytest.mark.memory_only("Specific channels expire in the process; for queues of each broker see `test_queues`.")
@BOTH_KINDS
async def test_messages_expire(processes: Processes, normal: bool) -> None:
    layer = processes.new(expiry=2.0, capacity=3)
    channel = await a_channel(layer, normal)
    for number in range(3):
        await layer.send(channel, n(number))
    await asyncio.sleep(2.3)
    assert await rest(layer, channel) == []
    for number in range(3):
        await layer.send(channel, n(number))
    assert await numbers(layer, channel, 3) == [0, 1, 2]


@LOCAL
async def test_an_expired_message_of_a_name_that_nobody_reads_again_leaves_nothing(plain_processes: Processes) -> None:
    layer = plain_processes.new(expiry=0.1)
    channel = await layer.new_channel()
    await layer.send(channel, n(1))
    await rest(layer, await layer.new_channel())
    await until(lambda: layer.statistics()["channels"] == 0)
    assert layer.statistics()["expired"] == 1


# ---- flush -------------------------------------------------------------------------------------------------------


async def test_flush_leaves_no_message_and_no_group_in_any_process(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    mine, theirs = await one.new_channel(), await two.new_channel()
    for layer, channel in ((one, mine), (two, theirs), (one, "normal")):
        await layer.group_add("g", channel)
        await layer.send(channel, n(1))
    await one.group_send("g", n(2))
    await soon(one.flush())
    await two.group_send("g", n(3))
    assert await rest(one, mine, sender=two) == []
    assert await rest(two, theirs) == []
    assert await rest(two, "normal") == []


async def test_readers_survive_a_flush(processes: Processes) -> None:
    one, two = processes.new(), processes.new()
    mine = await one.new_channel()
    reading = [asyncio.ensure_future(one.receive(mine)), asyncio.ensure_future(one.receive("normal"))]
    for _ in range(20):
        await asyncio.sleep(0)
    await soon(two.flush())
    await two.send(mine, n(1))
    await two.send("normal", n(2))
    assert await soon(asyncio.gather(*reading)) == [n(1), n(2)]


@pytest.mark.memory_only("The prefix begins each name, and `test_queues` has each broker purge by beginnings.")
@pytest.mark.parametrize("more", ["2", ":", ":q", ":g:"])
async def test_flush_of_one_prefix_spares_others(plain_processes: Processes, more: str) -> None:
    processes, prefix = plain_processes, plain_processes.config["prefix"]
    one, two = processes.new(), processes.new(prefix=f"{prefix}{more}")
    await two.group_add("g", "c")
    await two.send("c", n(1))
    await soon(one.flush())
    await two.group_send("g", n(2))
    assert sorted(await numbers(two, "c", 2)) == [1, 2]


async def test_flush_of_nothing_and_twice(processes: Processes) -> None:
    layer = processes.new()
    await soon(layer.flush())
    await soon(layer.flush())
    await layer.send("c", n(1))
    assert await numbers(layer, "c", 1) == [1]
