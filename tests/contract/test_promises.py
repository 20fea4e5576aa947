"""The promises of a layer, by the numbers of `BaseChannelLayer`'s docstring, for every broker."""

from __future__ import annotations

import os
import random

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import BaseChannelLayer, Event, ListenerClosed, PayloadTooLarge

from .helpers import TIME_LIMIT, Unique, accepted, blocked, connected, messages, new_layer, read, receivers, trying
from .kinds import Broker, Kind, MortalBroker

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024

NAMES = [
    "plain",
    "with space",
    "glob*?[a-z]\\",
    "mqtt/+/#",
    "$SYS/x",
    "a;b,c:d{e}",
    "quote'\"`--",
    "naïve Ωμέγα \N{GRINNING FACE}",
    "line\nbreak\ttab\0nul",
    "long" * 100,
]
"""Group and queue names that a wire protocol may trip over."""


def open_files() -> set[str]:
    """The sockets, pipes and files that this process holds open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            file = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if file != "/dev/null":  # each of uvloop's event loops keeps one in reserve
            found.add(f"{number} {file}")
    return found


async def only_open(before: set[str]) -> None:
    """Wait until no other files are open: an event loop closes a socket in one of its next turns."""
    with anyio.move_on_after(TIME_LIMIT):
        while open_files() != before:
            await anyio.lowlevel.checkpoint()
    assert open_files() == before


# ---- 1: connect tries once ---------------------------------------------------------------------------------------


async def test_1_connect_to_a_dead_broker_names_the_address_and_leaves_nothing_open(
    mortal_broker: MortalBroker,
) -> None:
    layer = new_layer(mortal_broker)
    mortal_broker.kill()
    before = open_files()
    with anyio.fail_after(TIME_LIMIT), pytest.raises(ListenerClosed) as caught:
        await layer.connect()
    assert layer.address in str(caught.value)
    await only_open(before)


async def test_1_after_a_failed_connect_the_same_layer_can_connect(mortal_broker: MortalBroker, unique: Unique) -> None:
    layer, group = new_layer(mortal_broker), unique("g")
    mortal_broker.kill()
    with anyio.fail_after(TIME_LIMIT):
        with pytest.raises(ListenerClosed):
            await layer.connect()
        mortal_broker.start()
        await layer.connect()
        await layer.subscribe(group)
        await layer.publish(group, b"here")
        assert await messages(layer, 1) == [b"here"]
        await layer.disconnect()


async def test_1_a_cancelled_connect_leaves_nothing_open(broker: Broker) -> None:
    layer, before = new_layer(broker), open_files()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await layer.connect()
    await layer.disconnect()
    await only_open(before)


# ---- 2: disconnect at any time -----------------------------------------------------------------------------------


async def test_2_disconnect_before_connect_and_twice(broker: Broker) -> None:
    layer = new_layer(broker)
    with anyio.fail_after(TIME_LIMIT):
        await layer.disconnect()
        await layer.disconnect()
        await layer.connect()
        await layer.disconnect()
        await layer.disconnect()


async def test_2_disconnect_ends_a_pending_next_published(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,), anyio.create_task_group() as tasks:
        await layer.subscribe(unique("g"))

        async def reader() -> None:
            with pytest.raises(ListenerClosed):
                await layer.next_published()

        tasks.start_soon(reader)
        await blocked()
        await layer.disconnect()


async def test_2_disconnect_ends_every_pending_call(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        ended = 0

        async def keep_calling(number: int) -> None:
            nonlocal ended
            group = unique(f"g{number}")
            with pytest.raises(ListenerClosed):
                while True:
                    await layer.subscribe(group)
                    await layer.publish(group, b"x" * 10_000)
                    await layer.unsubscribe(group)
                    await anyio.lowlevel.checkpoint()
            ended += 1

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(keep_calling, number)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            await layer.disconnect()
        assert ended == 10


async def test_2_after_disconnect_every_verb_raises_listener_closed(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        await layer.subscribe(group := unique("g"))
        await layer.disconnect()
        calls = [layer.publish(group, b"x"), layer.subscribe(group), layer.unsubscribe(group), layer.next_published()]
        for call in calls:
            with pytest.raises(ListenerClosed) as caught:
                await call
            assert layer.address in str(caught.value)


async def test_2_before_connect_every_verb_raises_listener_closed(broker: Broker, unique: Unique) -> None:
    layer, group = new_layer(broker), unique("g")
    with anyio.fail_after(TIME_LIMIT):
        with pytest.raises(ListenerClosed):
            await layer.publish(group, b"x")
        with pytest.raises(ListenerClosed):
            await layer.subscribe(group)
        with pytest.raises(ListenerClosed):
            await layer.next_published()


async def test_2_disconnect_of_a_half_connected_layer(broker: Broker) -> None:
    """Whatever step of `connect` is under way, `disconnect` ends it, and nothing stays open."""
    before = open_files()
    for steps in range(12):
        layer = new_layer(broker)

        async def connect(layer: BaseChannelLayer = layer) -> None:
            try:
                await layer.connect()
            except ListenerClosed:
                pass  # one of the two outcomes that the race allows

        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connect)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                await layer.disconnect()
            await layer.disconnect()
    await only_open(before)


async def test_2_disconnect_never_raises_for_a_broker_that_is_gone(mortal_broker: MortalBroker) -> None:
    async with connected(mortal_broker) as (layer,):
        mortal_broker.kill()
        await layer.disconnect()
        await layer.disconnect()


# ---- 3: a new session --------------------------------------------------------------------------------------------


async def test_3_a_second_session_has_no_subscriptions(kind: Kind, broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (layer, other):
        await layer.subscribe(old := unique("old"))
        await layer.disconnect()
        await layer.connect()
        await layer.subscribe(new := unique("new"))
        for _ in range(3):
            await other.publish(old, b"for nobody")
        await accepted(kind, other)
        await other.publish(new, b"seen")
        await layer.subscribe(old)
        await other.publish(old, b"seen again")
        assert {(event.group, event.message) for event in await read(layer, 2)} == {
            (new, b"seen"),
            (old, b"seen again"),
        }


async def test_3_a_second_session_begins_without_the_unread_events_of_the_first(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        await layer.subscribe(old := unique("old"))
        await layer.publish(old, b"read")
        await layer.publish(old, b"unread")
        assert await messages(layer, 1) == [b"read"]
        await layer.disconnect()
        await layer.connect()
        await layer.subscribe(new := unique("new"))
        await layer.publish(new, b"first")
        assert await read(layer, 1) == [Event(new, b"first")]


async def test_3_twenty_sessions_of_one_layer(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        group = unique("g")
        for number in range(20):
            await layer.subscribe(group)
            await layer.publish(group, b"%d" % number)
            assert await messages(layer, 1) == [b"%d" % number]
            await layer.disconnect()
            await layer.connect()


# ---- 4: subscribe is in effect when it returns -------------------------------------------------------------------


async def test_4_what_is_published_after_subscribe_is_seen(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        for number in range(50):
            await reader.subscribe(group := unique("g"))
            await writer.publish(group, b"%d" % number)
            assert await read(reader, 1) == [Event(group, b"%d" % number)]


async def test_4_a_layer_sees_what_it_publishes_itself(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        await layer.subscribe(group := unique("g"))
        await layer.publish(group, b"mine")
        assert await read(layer, 1) == [Event(group, b"mine")]


async def test_4_every_subscriber_gets_each_message(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 3) as layers:
        group = unique("g")
        for layer in layers:
            await layer.subscribe(group)
        assert await receivers(layers[0], group, b"to all") in (None, 3)
        assert [await messages(layer, 1) for layer in layers] == [[b"to all"]] * 3


async def test_4_what_nobody_subscribes_to_is_accepted(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        assert await receivers(layer, unique("g"), b"for nobody") in (None, 0)


async def test_4_subscribers_are_counted_if_the_broker_can(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        group = unique("g")
        assert await layer.count_subscribers(group) in (None, 0)
        await layer.subscribe(group)
        assert await layer.count_subscribers(group) in (None, 1)


async def test_4_any_text_is_a_group_name(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        for name in NAMES:
            with trying(name):
                group = unique(name)
                await reader.subscribe(group)
                await writer.publish(group + "x", b"another group")
                await writer.publish(group.swapcase(), b"another group too")
                await writer.publish(group, b"this")
                assert await read(reader, 1) == [Event(group, b"this")]
                await reader.unsubscribe(group)


async def test_4_names_that_agree_in_their_first_200_characters_differ(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        beginning = unique("x" * 200)
        await layer.subscribe(beginning + "a")
        await layer.publish(beginning + "b", b"not this")
        await layer.publish(beginning + "a", b"this")
        assert await read(layer, 1) == [Event(beginning + "a", b"this")]


async def test_4_a_subscribe_that_was_cancelled_can_be_called_again(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        for steps in range(10):
            group = unique("g")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(layer.subscribe, group)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            await layer.subscribe(group)
            await layer.publish(group, b"once")
            await layer.publish(group, b"end")
            assert await messages(layer, 2) == [b"once", b"end"]


# ---- 5: unsubscribe ----------------------------------------------------------------------------------------------


async def test_5_unsubscribe_of_an_unknown_group_does_nothing(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        await layer.unsubscribe(unique("never"))
        await layer.subscribe(group := unique("g"))
        await layer.unsubscribe(unique("never"))
        await layer.publish(group, b"still here")
        assert await messages(layer, 1) == [b"still here"]
        await layer.unsubscribe(group)
        await layer.unsubscribe(group)


async def test_5_what_is_published_after_unsubscribe_is_not_seen(kind: Kind, broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        await writer.publish(group, b"1")
        assert await messages(reader, 1) == [b"1"]
        await reader.unsubscribe(group)
        await writer.publish(group, b"2")
        await accepted(kind, writer)
        await reader.subscribe(group)
        await writer.publish(group, b"3")
        assert await messages(reader, 1) == [b"3"]


async def test_5_subscribing_twice_is_subscribing_once(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        group = unique("g")
        await layer.subscribe(group)
        await layer.subscribe(group)
        await layer.publish(group, b"1")
        await layer.publish(group, b"2")
        assert await messages(layer, 2) == [b"1", b"2"]
        await layer.unsubscribe(group)
        await layer.publish(group, b"3")
        await layer.subscribe(group)
        await layer.publish(group, b"4")
        assert await messages(layer, 1) == [b"4"]


async def test_5_one_layers_unsubscribe_is_not_anothers(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (one, two):
        group = unique("g")
        await one.subscribe(group)
        await two.subscribe(group)
        await one.unsubscribe(group)
        assert await receivers(one, group, b"for two") in (None, 1)
        assert await messages(two, 1) == [b"for two"]


# ---- 6: publish arrives whole and equal, or raises ---------------------------------------------------------------


async def test_6_a_message_of_any_size_arrives_whole_and_equal(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        for size in (0, 1, 7_900, 7_999, 8_000, 8_001, 16_000, 65_535, 65_536, 300_000, MEGABYTE):
            with trying(size):
                await reader.subscribe(group := unique("g"))
                message = random.Random(size).randbytes(size)
                await writer.publish(group, message)
                await writer.publish(group, b"after it")
                assert await messages(reader, 2) == [message, b"after it"]


async def test_6_every_byte_arrives(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        await layer.subscribe(group := unique("g"))
        samples = [bytes([value]) for value in range(256)] + [
            bytes(range(256)),
            b"\0" * 100,
            b"\xff" * 100,
            b"\r\n" * 9,
        ]
        for message in samples:
            await layer.publish(group, message)
        assert await messages(layer, len(samples)) == samples


async def test_6_equal_messages_arrive_as_often_as_published(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(writer.publish, group, b"the same")
        await writer.publish(group, b"end")
        assert await messages(reader, 51) == [b"the same"] * 50 + [b"end"]


async def test_6_big_messages_of_several_tasks_do_not_mix(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        sent = [random.Random(number).randbytes(200_000 + number) for number in range(6)]
        async with anyio.create_task_group() as tasks:
            for message in sent:
                tasks.start_soon(writer.publish, group, message)
            received = await messages(reader, len(sent))
        assert sorted(received) == sorted(sent)


async def test_6_publish_does_not_wait_for_readers(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        sent = [b"%06d" % number + b"." * 400 for number in range(1500)]
        for message in sent:
            await writer.publish(group, message)
        assert await messages(reader, len(sent)) == sent


async def test_6_what_is_too_large_raises_before_it_is_sent(broker: Broker, unique: Unique) -> None:
    """Above 1 MB a broker may refuse, with the one error that says so; what it does not refuse arrives."""
    async with connected(broker) as (layer,):
        await layer.subscribe(group := unique("g"))
        message = random.Random(1).randbytes(3 * MEGABYTE)
        try:
            await layer.publish(group, message)
        except PayloadTooLarge as error:
            expected = [b"after"]
            assert str(len(message)) in str(error).replace(",", "").replace("_", "")
        else:
            expected = [message, b"after"]
        await layer.publish(group, b"after")
        assert await messages(layer, len(expected)) == expected


# ---- 7: in order, once -------------------------------------------------------------------------------------------


async def test_7_events_of_one_publisher_arrive_in_order_once_at_every_reader(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 3) as (one, two, writer):
        group = unique("g")
        await one.subscribe(group)
        await two.subscribe(group)
        sent = [b"%d" % number for number in range(500)]
        for message in sent:
            await writer.publish(group, message)
        assert await messages(one, 500) == sent
        assert await messages(two, 500) == sent


async def test_7_big_and_small_messages_keep_their_order(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        sent = [
            random.Random(number).randbytes(size) for number, size in enumerate([3, 50_000, 0, 9_000, 1, 200_000, 2])
        ]
        for message in sent:
            await writer.publish(group, message)
        assert await messages(reader, len(sent)) == sent


async def test_7_each_publishers_order_is_kept_among_others(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 4) as (reader, *writers):
        await reader.subscribe(group := unique("g"))

        async def write(number: int, writer: BaseChannelLayer) -> None:
            for count in range(100):
                await writer.publish(group, b"%d %d" % (number, count))

        async with anyio.create_task_group() as tasks:
            for number, writer in enumerate(writers):
                tasks.start_soon(write, number, writer)
        received = [tuple(map(int, message.split())) for message in await messages(reader, 300)]
        for number in range(3):
            assert [count for sender, count in received if sender == number] == list(range(100))


async def test_7_each_tasks_order_is_kept_when_tasks_share_a_layer(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        groups = [unique("g") for _ in range(3)]
        for group in groups:
            await reader.subscribe(group)

        async def write(number: int) -> None:
            for count in range(60):
                await writer.publish(groups[count % 3], b"%d %d" % (number, count))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(write, number)
        received = await read(reader, 300)
        for group in groups:
            for number in range(5):
                counts = [
                    int(event.message.split()[1])
                    for event in received
                    if event.group == group and event.message.startswith(b"%d " % number)
                ]
                assert counts == [count for count in range(60) if groups[count % 3] == group]


# ---- 8: next_published may be cancelled --------------------------------------------------------------------------


async def test_8_a_cancelled_next_published_loses_nothing(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        sent = [b"%d" % number for number in range(300)]
        received: list[bytes] = []

        async def write() -> None:
            for number, message in enumerate(sent):
                await writer.publish(group, message)
                for _ in range(number % 7):
                    await anyio.lowlevel.checkpoint()

        cancelled = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            while len(received) < len(sent):
                with anyio.move_on_after(0.0005 * (cancelled % 3)) as scope:
                    received.append((await reader.next_published()).message)
                cancelled += scope.cancelled_caught
                await anyio.lowlevel.checkpoint()
        assert received == sent
        assert cancelled


async def test_8_cancelling_in_the_moment_of_arrival_loses_nothing(broker: Broker, unique: Unique) -> None:
    """The reader is cancelled a few steps after the event was published, for every small number of steps."""
    async with connected(broker, 2) as (reader, writer):
        await reader.subscribe(group := unique("g"))
        received: list[bytes] = []

        async def receive() -> None:
            received.append((await reader.next_published()).message)

        for steps in range(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await blocked()
                await writer.publish(group, b"%d" % steps)
                for _ in range(steps % 10):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        while len(received) < 30:
            await receive()
        assert received == [b"%d" % steps for steps in range(30)]


# ---- 9: ListenerClosed and nothing else --------------------------------------------------------------------------


async def test_9_a_killed_broker_ends_every_call_with_listener_closed(
    mortal_broker: MortalBroker, unique: Unique
) -> None:
    async with connected(mortal_broker) as (layer,):
        group = unique("g")
        await layer.subscribe(group)
        published, busy = 0, anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def reader() -> None:
                with pytest.raises(ListenerClosed):
                    while True:
                        await layer.next_published()

            async def writer() -> None:
                nonlocal published
                with pytest.raises(ListenerClosed):
                    while True:
                        await layer.publish(group, b"x" * 1000)
                        published += 1
                        if published == 100:
                            busy.set()

            async def subscriber(number: int) -> None:
                with pytest.raises(ListenerClosed):
                    while True:
                        await layer.subscribe(name := unique("s"))
                        await layer.unsubscribe(name)

            tasks.start_soon(reader)
            for number in range(3):
                tasks.start_soon(writer)
                tasks.start_soon(subscriber, number)
            await busy.wait()
            await anyio.to_thread.run_sync(mortal_broker.kill)
        for verb in (layer.publish(group, b"x"), layer.subscribe(group), layer.next_published()):
            with pytest.raises(ListenerClosed):
                await verb


async def test_9_after_the_broker_was_killed_the_same_layer_gets_a_new_session(
    mortal_broker: MortalBroker, unique: Unique
) -> None:
    async with connected(mortal_broker) as (layer,):
        for number in range(3):
            group = unique("g")
            await layer.subscribe(group)
            await anyio.to_thread.run_sync(mortal_broker.kill)
            with pytest.raises(ListenerClosed):
                await layer.next_published()
            await layer.disconnect()
            await anyio.to_thread.run_sync(mortal_broker.start)
            await layer.connect()
            await layer.subscribe(group)
            await layer.publish(group, b"%d" % number)
            assert await messages(layer, 1) == [b"%d" % number]


# ---- 10: concurrent calls ----------------------------------------------------------------------------------------


async def test_10_concurrent_calls_are_safe(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (layer, writer):
        steady = unique("steady")
        await layer.subscribe(steady)
        groups = [unique("g") for _ in range(20)]

        async def come_and_go(group: str) -> None:
            for _ in range(10):
                await layer.subscribe(group)
                await layer.publish(group, b"noise")
                await layer.unsubscribe(group)

        async def write() -> None:
            for number in range(200):
                await writer.publish(steady, b"%d" % number)

        seen: list[bytes] = []
        async with anyio.create_task_group() as tasks:
            for group in groups:
                tasks.start_soon(come_and_go, group)
            tasks.start_soon(write)
            while len(seen) < 200:
                event = await layer.next_published()
                if event.group == steady:
                    seen.append(event.message)
        assert seen == [b"%d" % number for number in range(200)]


async def test_10_subscribing_the_same_group_from_many_tasks(broker: Broker, unique: Unique) -> None:
    async with connected(broker) as (layer,):
        group = unique("g")
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(layer.subscribe, group)
        await layer.publish(group, b"1")
        await layer.publish(group, b"2")
        assert await messages(layer, 2) == [b"1", b"2"]


async def test_10_a_thousand_groups(broker: Broker, unique: Unique) -> None:
    async with connected(broker, 2) as (reader, writer):
        groups = [unique("g") for _ in range(1000)]
        async with anyio.create_task_group() as tasks:
            for group in groups:
                tasks.start_soon(reader.subscribe, group)
        async with anyio.create_task_group() as tasks:
            for group in groups:
                tasks.start_soon(writer.publish, group, group.encode())
        received = await read(reader, 1000)
        assert sorted(event.group for event in received) == sorted(groups)
        assert all(event.message == event.group.encode() for event in received)


# ---- 11: a silent connection -------------------------------------------------------------------------------------


async def test_11_a_silent_connection_ends_the_session(mortal_broker: MortalBroker, unique: Unique) -> None:
    async with connected(mortal_broker) as (layer,):
        await layer.subscribe(unique("g"))
        mortal_broker.freeze()
        with pytest.raises(ListenerClosed) as caught:
            await layer.next_published()
        assert layer.address in str(caught.value)


async def test_11_an_idle_connection_that_answers_is_kept(mortal_broker: MortalBroker, unique: Unique) -> None:
    """Longer than two probe intervals without a message end nothing.

    Over the kinds that have a connection of their own to watch, which are those that may be killed.
    """
    async with connected(mortal_broker, 2) as (layer, writer):
        await layer.subscribe(group := unique("g"))
        with anyio.move_on_after(2.5):
            await layer.next_published()
        await writer.publish(group, b"still here")
        assert await messages(layer, 1) == [b"still here"]
