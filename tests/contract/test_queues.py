"""Queues: each message to exactly one reader of any layer object, and the bindings from groups to queues."""

from __future__ import annotations

import random

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import BaseChannelLayer, ListenerClosed, NotSupported, QueueFull
from django_anyio_channels.core.capabilities import QueueLength, SupportsQueueLength

from .helpers import TIME_LIMIT, Unique, blocked, connected, messages, new_layer, take_all, trying
from .kinds import Broker, MortalBroker
from .test_promises import MEGABYTE, NAMES

pytestmark = pytest.mark.anyio

FOR_LONG = 60.0
"""Seconds that no test lasts."""

SHORT = 0.8
"""Seconds that a test can wait for."""


async def put(
    layer: BaseChannelLayer, queue: str, *sent: bytes, capacity: int = 1000, expiry: float = FOR_LONG
) -> None:
    for message in sent:
        await layer.put(queue, message, capacity=capacity, expiry=expiry)


async def bind(layer: BaseChannelLayer, group: str, queue: str, *, capacity: int = 1000) -> None:
    await layer.bind(group, queue, capacity=capacity, expiry=FOR_LONG, lifetime=FOR_LONG)


# ---- put and take ------------------------------------------------------------------------------------------------


async def test_a_message_waits_for_its_first_reader(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (reader, writer):
        await put(writer, queue := unique("q"), b"1", b"2", b"3")
        await writer.disconnect()
        assert [await reader.take(queue) for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_reader_waits_for_its_first_message(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (reader, writer):
        queue, taken = unique("q"), []

        async def take() -> None:
            taken.append(await reader.take(queue))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await blocked()
            await put(writer, queue, b"woken")
        assert taken == [b"woken"]


async def test_a_queue_says_how_many_messages_wait(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (layer, writer):
        if not isinstance(layer, SupportsQueueLength):
            assert layer.address.startswith("mqtt"), "which has no queues of its own"
            return
        queue = unique("q")
        assert await layer.queue_length(queue) == QueueLength(0, 0)
        await put(writer, queue, b"1", b"2", b"3")
        await put(writer, unique("q"), b"another")
        assert await layer.queue_length(queue) == QueueLength(3, 0)
        assert await layer.take(queue) == b"1"
        with anyio.fail_after(TIME_LIMIT):
            while await layer.queue_length(queue) != QueueLength(2, 0):  # an acknowledgement is on its way
                await anyio.lowlevel.checkpoint()


async def test_a_layer_takes_what_it_put_itself(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        await put(layer, queue := unique("q"), b"mine")
        assert await layer.take(queue) == b"mine"


async def test_any_text_is_a_queue_name(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        for name in NAMES:
            with trying(name):
                queue = unique(name)
                await put(layer, queue + "x", b"another")
                await put(layer, queue.swapcase(), b"another too")
                await put(layer, queue, b"this")
                assert await layer.take(queue) == b"this"
                assert await layer.take(queue + "x") == b"another"


async def test_a_message_of_any_size_is_taken_whole_and_equal(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (reader, writer):
        for size in (0, 1, 7_999, 8_000, 65_536, MEGABYTE):
            with trying(size):
                message = random.Random(size).randbytes(size)
                await put(writer, queue := unique("q"), message, b"after it")
                assert [await reader.take(queue) for _ in range(2)] == [message, b"after it"]


async def test_equal_messages_are_as_many_as_were_put(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        await put(layer, queue := unique("q"), *[b"\0same\xff"] * 20, b"end")
        assert await take_all(layer, queue, until=b"end") == [b"\0same\xff"] * 20


async def test_queues_and_groups_of_one_name_have_nothing_in_common(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        await layer.subscribe(name := unique("name"))
        await put(layer, name, b"put")
        await layer.publish(name, b"published")
        assert await messages(layer, 1) == [b"published"]
        assert await layer.take(name) == b"put"


async def test_the_order_of_one_sender_is_kept_under_load(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 3) as (reader, one, two):
        queue = unique("q")

        async def write(name: bytes, layer: BaseChannelLayer) -> None:
            await put(layer, queue, *[b"%s %d" % (name, count) for count in range(100)])

        received: list[list[bytes]] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, b"one", one)
            tasks.start_soon(write, b"two", two)
            while len(received) < 200:
                received.append((await reader.take(queue)).split())
        for name in (b"one", b"two"):
            assert [int(count) for sender, count in received if sender == name] == list(range(100))


# ---- capacity and expiry -----------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_has_room_again_after_a_take(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (layer, other):
        queue = unique("q")
        await put(layer, queue, b"1", b"2", b"3", capacity=3)
        for sender in (layer, other):
            with pytest.raises(QueueFull, match=queue.replace(".", r"\.")) as caught:
                await put(sender, queue, b"refused", capacity=3)
            assert "3" in str(caught.value).replace(queue, "")
        assert await other.take(queue) == b"1"
        await put(other, queue, b"4", capacity=3)
        with pytest.raises(QueueFull):
            await put(other, queue, b"refused", capacity=3)
        await put(other, queue, b"5", capacity=4)
        assert [await layer.take(queue) for _ in range(4)] == [b"2", b"3", b"4", b"5"]


async def test_capacity_holds_against_concurrent_senders(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 3) as layers:
        queue, refused = unique("q"), 0

        async def send(layer: BaseChannelLayer) -> None:
            nonlocal refused
            try:
                await put(layer, queue, b"x", capacity=10)
            except QueueFull:
                refused += 1

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(send, layers[number % 3])
        assert refused == 50
        await put(layers[0], queue, b"end", capacity=100)
        assert await take_all(layers[1], queue, until=b"end") == [b"x"] * 10


async def test_a_waiting_reader_makes_room_at_once(queue_broker: Broker, unique: Unique) -> None:
    """With a reader always waiting, many more messages than the capacity pass, one at a time."""
    async with connected(queue_broker, 2) as (reader, writer):
        queue = unique("q")
        for number in range(20):
            await put(writer, queue, b"%d" % number, capacity=1)
            assert await reader.take(queue) == b"%d" % number


async def test_what_has_expired(queue_broker: Broker, unique: Unique) -> None:
    """Each of these waits until messages have expired; they wait together."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(what_has_waited_for_its_expiry_is_gone, queue_broker, unique)
        tasks.start_soon(what_has_expired_takes_no_room, queue_broker, unique)


async def what_has_waited_for_its_expiry_is_gone(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (layer, other):
        queue = unique("q")
        await put(layer, queue, b"kept", expiry=FOR_LONG)
        await put(layer, queue, b"gone", b"gone", expiry=SHORT)
        await put(layer, queue, b"end", expiry=FOR_LONG)
        await anyio.sleep(1.5 * SHORT)
        assert await take_all(other, queue, until=b"end") == [b"kept"]


async def what_has_expired_takes_no_room(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        queue = unique("q")
        await put(layer, queue, b"gone", b"gone", b"gone", capacity=3, expiry=SHORT)
        await anyio.sleep(1.5 * SHORT)
        await put(layer, queue, b"1", b"2", b"3", capacity=3)
        with pytest.raises(QueueFull):
            await put(layer, queue, b"4", capacity=3)
        assert [await layer.take(queue) for _ in range(3)] == [b"1", b"2", b"3"]


# ---- exactly one reader ------------------------------------------------------------------------------------------


async def test_each_message_goes_to_exactly_one_of_many_readers(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 4) as (writer, *readers):
        queue, sent = unique("q"), {b"%d" % number for number in range(300)}
        taken: list[bytes] = []

        async def keep_taking(layer: BaseChannelLayer) -> None:
            while True:
                taken.append(await layer.take(queue))
                if len(taken) >= len(sent):
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for reader in readers:
                for _ in range(5):
                    tasks.start_soon(keep_taking, reader)
            await put(writer, queue, *sorted(sent))
        assert len(taken) == len(sent)
        assert set(taken) == sent
        await put(writer, queue, b"nothing more is there")
        assert await writer.take(queue) == b"nothing more is there"


async def test_every_waiting_reader_gets_one(queue_broker: Broker, unique: Unique) -> None:
    """One message wakes one reader, and nobody is forgotten."""
    async with connected(queue_broker, 3) as (writer, *readers):
        queue, taken = unique("q"), []

        async def take_one(layer: BaseChannelLayer) -> None:
            taken.append(await layer.take(queue))

        async with anyio.create_task_group() as tasks:
            for reader in readers:
                for _ in range(5):
                    tasks.start_soon(take_one, reader)
            await blocked()
            await put(writer, queue, *[b"%d" % number for number in range(10)])
        assert sorted(taken) == sorted(b"%d" % number for number in range(10))


async def test_cancelled_readers_lose_nothing(queue_broker: Broker, unique: Unique) -> None:
    """Readers of three layers poll with tiny time limits while messages trickle in."""
    async with connected(queue_broker, 4) as (writer, *readers):
        queue, count = unique("q"), 100
        taken: list[bytes] = []
        cancelled = 0

        async def poll(layer: BaseChannelLayer, chance: random.Random) -> None:
            nonlocal cancelled
            while True:
                with anyio.move_on_after(chance.choice([0, 0.0005, 0.001, 0.003])) as scope:
                    taken.append(await layer.take(queue))
                cancelled += scope.cancelled_caught
                if len(taken) >= count:
                    tasks.cancel_scope.cancel()
                await anyio.lowlevel.checkpoint()

        async def write() -> None:
            for number in range(count):
                await put(writer, queue, b"%d" % number)
                for _ in range(number % 5):
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            for number, reader in enumerate(readers):
                tasks.start_soon(poll, reader, random.Random(number))
                tasks.start_soon(poll, reader, random.Random(-number))
            tasks.start_soon(write)
        assert sorted(taken) == sorted(b"%d" % number for number in range(count))
        assert cancelled


async def test_one_polling_reader_keeps_the_order(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (writer, reader):
        queue, count = unique("q"), 100
        taken: list[bytes] = []

        async def write() -> None:
            for number in range(count):
                await put(writer, queue, b"%d" % number)
                for _ in range(number % 4):
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            polls = 0
            while len(taken) < count:
                polls += 1
                with anyio.move_on_after(0.0007 * (polls % 3)):
                    taken.append(await reader.take(queue))
                await anyio.lowlevel.checkpoint()
        assert taken == [b"%d" % number for number in range(count)]


async def test_a_reader_cancelled_in_the_moment_of_arrival_loses_nothing(queue_broker: Broker, unique: Unique) -> None:
    """The reader is cancelled a few steps after the message was put, for every small number of steps."""
    async with connected(queue_broker, 2) as (reader, writer):
        for steps in range(12):
            queue = unique("q")
            taken: list[bytes] = []

            async def take(queue: str = queue, taken: list[bytes] = taken) -> None:
                taken.append(await reader.take(queue))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                await blocked()
                await put(writer, queue, b"first", b"second")
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            while len(taken) < 2:
                await take()
            assert taken == [b"first", b"second"]


async def test_a_cancelled_reader_leaves_its_message_to_a_waiting_one(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (reader, writer):
        for steps in range(6):
            queue = unique("q")
            taken: list[bytes] = []

            async def take(queue: str = queue, taken: list[bytes] = taken) -> None:
                taken.append(await reader.take(queue))

            async with anyio.create_task_group() as staying:
                async with anyio.create_task_group() as leaving:
                    leaving.start_soon(take)
                    await blocked()
                    staying.start_soon(take)
                    await blocked()
                    await put(writer, queue, b"1")
                    for _ in range(steps):
                        await anyio.lowlevel.checkpoint()
                    leaving.cancel_scope.cancel()
                await put(writer, queue, b"2")
            while len(taken) < 2:
                await take()
            assert taken == [b"1", b"2"]


async def test_many_cancelled_readers_of_many_queues_disturb_nobody(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (reader, writer):
        queue = unique("q")
        for _ in range(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(reader.take, queue)
                    tasks.start_soon(reader.take, unique("other"))
                await blocked()
                tasks.cancel_scope.cancel()
        await put(writer, queue, b"1", b"2")
        assert [await reader.take(queue) for _ in range(2)] == [b"1", b"2"]


# ---- from connect to disconnect ----------------------------------------------------------------------------------


async def test_disconnect_ends_a_pending_take(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (layer, other):
        queue = unique("q")

        async def take() -> None:
            with pytest.raises(ListenerClosed):
                await layer.take(queue)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(take)
            await blocked()
            await layer.disconnect()
        await put(other, queue, b"1", b"2")
        assert [await other.take(queue) for _ in range(2)] == [b"1", b"2"]


async def test_disconnect_in_the_moment_of_arrival_loses_nothing(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (layer, other):
        for steps in range(8):
            queue = unique("q")
            taken: list[bytes] = []

            async def take(queue: str = queue, taken: list[bytes] = taken) -> None:
                try:
                    taken.append(await layer.take(queue))
                except ListenerClosed:
                    pass  # the other outcome that the race allows

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                await blocked()
                await put(other, queue, b"1", b"2")
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                await layer.disconnect()
            while len(taken) < 2:
                taken.append(await other.take(queue))
            assert taken == [b"1", b"2"]
            await layer.connect()


async def test_queue_verbs_after_disconnect_raise_listener_closed(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        group, queue = unique("g"), unique("q")
        await layer.disconnect()
        calls = [
            put(layer, queue, b"x"),
            layer.take(queue),
            bind(layer, group, queue),
            layer.unbind(group, queue),
            layer.purge(queue),
        ]
        for call in calls:
            with pytest.raises(ListenerClosed) as caught:
                await call
            assert layer.address in str(caught.value)


async def test_messages_outlive_the_layer_that_put_them(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        await put(layer, queue := unique("q"), b"kept")
        await layer.disconnect()
        await layer.connect()
        assert await layer.take(queue) == b"kept"


async def test_a_killed_broker_ends_a_pending_take(mortal_queue_broker: MortalBroker, unique: Unique) -> None:
    async with connected(mortal_queue_broker) as (layer,):

        async def take() -> None:
            with pytest.raises(ListenerClosed):
                await layer.take(unique("q"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            tasks.start_soon(take)
            await blocked()
            await anyio.to_thread.run_sync(mortal_queue_broker.kill)


# ---- purge -------------------------------------------------------------------------------------------------------


async def test_purge_empties_the_queues_that_begin_so(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (layer, other):
        prefix, spared = unique("p:"), unique("s:")
        for queue in (prefix, prefix + ".a", prefix + ".b", spared):
            await put(layer, queue, b"old", b"old")
        await other.purge(prefix)
        for queue in (prefix, prefix + ".a", prefix + ".b", spared):
            await put(layer, queue, b"end")
        for queue in (prefix, prefix + ".a", prefix + ".b"):
            assert await take_all(layer, queue, until=b"end") == []
        assert await take_all(layer, spared, until=b"end") == [b"old", b"old"]


async def test_purge_takes_its_prefix_literally(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        name = unique("a")
        for queue in (name + "bc", name + "*", name + "%", name + "_"):
            await put(layer, queue, b"kept")
        for prefix in (name + "?", name + "[b]", name + "b_", name + "b%", name + "\\b", name + ".*"):
            await layer.purge(prefix)
        await layer.purge(name + "*")
        await layer.purge(name + "%")
        await layer.purge(name + "_")
        assert await layer.take(name + "bc") == b"kept"
        for queue in (name + "*", name + "%", name + "_"):
            await put(layer, queue, b"end")
            assert await take_all(layer, queue, until=b"end") == []


async def test_a_reader_that_waits_survives_a_purge(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker, 2) as (reader, other):
        queue = unique("q")
        taken: list[bytes] = []

        async def take() -> None:
            taken.append(await reader.take(queue))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await blocked()
            await other.purge(queue)
            await put(other, queue, b"after the purge")
        assert taken == [b"after the purge"]


async def test_a_purged_queue_has_its_whole_capacity(queue_broker: Broker, unique: Unique) -> None:
    async with connected(queue_broker) as (layer,):
        queue = unique("q")
        await put(layer, queue, b"1", b"2", capacity=2)
        await layer.purge(queue)
        await put(layer, queue, b"3", b"4", capacity=2)
        with pytest.raises(QueueFull):
            await put(layer, queue, b"5", capacity=2)
        assert [await layer.take(queue) for _ in range(2)] == [b"3", b"4"]


# ---- brokers without queues --------------------------------------------------------------------------------------


async def test_a_broker_without_queues_says_what_to_use(queueless_broker: Broker, unique: Unique) -> None:
    layer, group, queue = new_layer(queueless_broker), unique("g"), unique("q")
    calls = [
        put(layer, queue, b"x"),
        layer.take(queue),
        bind(layer, group, queue),
        layer.unbind(group, queue),
        layer.purge(queue),
    ]
    with anyio.fail_after(TIME_LIMIT):
        for call in calls:
            with pytest.raises(NotSupported, match=r"use new_channel\(\) names or groups"):
                await call
