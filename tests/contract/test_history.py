"""What every broker with a history promises: positions, reading back, beginning in the past, and outages."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    Backoff,
    Channel,
    DeliveryUnknown,
    Event,
    Gap,
    InvalidPosition,
    ListenerClosed,
    PositionLost,
    Subscriber,
)
from django_anyio_channels.core.events import PublishResult

from .helpers import Unique
from .kinds import Broker, HistoryBroker, Kind

pytestmark = pytest.mark.anyio

TIME_LIMIT = 30.0

Open = Callable[..., Awaitable[Channel]]


@pytest.fixture
async def open_channel(history_broker: HistoryBroker) -> AsyncIterator[Open]:
    """Opens Channels with such options of the layer, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def connect(*, on_missed: Any = None, **options: Any) -> Channel:
            layers = history_broker.layers(**options)
            backoff = Backoff(longest=0.1)
            channel = await stack.enter_async_context(Channel(layers, on_missed=on_missed, backoff=backoff))
            await channel.connected()
            return channel

        yield connect


async def publish(channel: Channel, group: str, messages: Any) -> list[str]:
    """Publish one after the other, and return their positions."""
    positions = []
    for message in messages:
        result = await channel.publish(group, message)
        assert result.position is not None
        positions.append(result.position)
    return positions


async def publish_at_last(channel: Channel, group: str, message: object) -> None:
    """Publish, perhaps twice if the connection breaks meanwhile."""
    while True:
        try:
            await channel.publish(group, message)
        except DeliveryUnknown:
            continue
        return


async def next_of(subscriber: Subscriber, count: int = 1) -> list[Any]:
    """The next so many messages."""
    with anyio.fail_after(TIME_LIMIT):
        return [(await subscriber.receive()).message for _ in range(count)]


async def read_back(channel: Channel, group: str, **options: Any) -> list[Any]:
    return [event.message for event in await channel.history(group, **options)]


async def becomes_true(condition: Callable[[], object], seconds: float = TIME_LIMIT) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


# ---- positions and reading back ------------------------------------------------------------------------------------


async def test_publish_event_and_history_agree_on_positions(open_channel: Open, unique: Unique) -> None:
    channel, other, room = await open_channel(), await open_channel(), unique("room")
    async with channel.subscribe(room) as subscriber:
        positions = [*await publish(channel, room, range(5)), *await publish(other, room, range(5, 10))]
        with anyio.fail_after(TIME_LIMIT):
            events: list[Event[Any]] = [await subscriber.receive() for _ in range(10)]
    assert [(event.message, event.position) for event in events] == list(enumerate(positions))
    assert await channel.history(room) == events
    assert [event.position for event in await other.history(room)] == positions
    assert await channel.position(room) == positions[-1]
    is_after = channel.layer.is_after
    for (i, one), (j, two) in itertools.product(enumerate(positions), repeat=2):
        assert is_after(one, two) == (i > j)


async def test_reading_back(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(history_length=3000), unique("room")
    assert await read_back(channel, room) == []
    beginning = await channel.position(room)
    positions = await publish(channel, room, range(1100))
    assert await read_back(channel, room) == list(range(1100))
    assert await read_back(channel, room, limit=3) == [1097, 1098, 1099]
    assert await read_back(channel, room, limit=0) == []
    assert await read_back(channel, room, limit=10**30) == list(range(1100))
    assert await read_back(channel, room, since=beginning) == list(range(1100)), "of which it is before the first"
    assert await read_back(channel, room, since=positions[9], limit=3) == [10, 11, 12]
    assert await read_back(channel, room, since=positions[9], limit=10**30) == list(range(10, 1100))
    assert await read_back(channel, room, since=positions[-1]) == []
    assert await read_back(channel, unique("other")) == [], "each group has its own"


async def test_what_cannot_be_decoded_is_left_out(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(), unique("room")
    await channel.publish_payload(room, b"\xc1")
    await publish(channel, room, [1])
    assert await read_back(channel, room) == [1]
    assert channel.stats.undecodable == 1


@pytest.mark.parametrize(
    "since",
    [
        *("", "1", "room", "EPOCH-1-1 ", "Ω", "x" * 10**6),
        *(f"EPOCH-{number}" for number in (f"1-{2**64}", f"{2**64}-0", f"{10**13}-0", f"1-{10**20}")),
    ],
    ids=lambda since: since[:30].encode().hex(),
)
async def test_what_is_no_position(open_channel: Open, unique: Unique, since: str) -> None:
    channel, room = await open_channel(), unique("room")
    [position] = await publish(channel, room, [0])
    since = since.replace("EPOCH", position[:8])
    with pytest.raises(InvalidPosition, match="is not a position; use Event.position") as caught:
        await channel.history(room, since=since)
    assert len(str(caught.value)) < 200
    with pytest.raises(InvalidPosition):
        async with channel.subscribe(room, since=since):
            raise AssertionError("it was accepted")


async def test_invented_positions_are_lost(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(), unique("room")
    last = (await publish(channel, room, range(3)))[-1]
    epoch, first, second = last.split("-")
    for since in (
        f"01234567-{first}-{second}",
        f"{epoch}-{int(first) + 1}-{second}",
        f"{epoch}-{first}-{int(second) + 1}",
        f"{epoch}-{first}-{2**64 - 1}",
    ):
        with pytest.raises(PositionLost):
            await channel.history(room, since=since)


async def test_a_group_without_history(open_channel: Open, unique: Unique, history_broker: HistoryBroker) -> None:
    [layer], news = history_broker.layers(), unique("news")
    layer.disable_history(news)
    async with Channel(layer) as channel, channel.subscribe(news) as subscriber:
        assert (await channel.publish(news, 1)).position is None
        with anyio.fail_after(TIME_LIMIT):
            assert (await subscriber.receive()).position is None
        assert await channel.history(news) == []


async def test_a_pattern_gets_positions_too(
    kind: Kind, open_channel: Open, unique: Unique, pattern_broker: Broker
) -> None:
    assert kind.pattern is not None
    channel, room = await open_channel(), unique("room")
    async with channel.subscribe(pattern=kind.pattern(room)) as subscriber:
        [position] = await publish(channel, room, [1])
        with anyio.fail_after(TIME_LIMIT):
            event = await subscriber.receive()
    assert (event.message, event.position) == (1, position)


# ---- what is kept --------------------------------------------------------------------------------------------------


async def test_a_history_is_bounded_by_length(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(history_length=10), unique("room")
    positions = await publish(channel, room, range(300))
    kept = await read_back(channel, room)
    assert 10 <= len(kept) <= 110
    assert kept == list(range(300 - len(kept), 300))
    with pytest.raises(PositionLost, match=rf"history of {room} does not reach back to {positions[0]}.*Begin with the"):
        await channel.history(room, since=positions[0])
    with pytest.raises(PositionLost, match=room):
        async with channel.subscribe(room, since=positions[0]):
            raise AssertionError("it was accepted")
    assert await read_back(channel, room, since=positions[-10]) == list(range(291, 300))
    async with channel.subscribe(room) as subscriber:
        await publish(channel, room, [300])
        assert await next_of(subscriber) == [300], "the Channel can be used as ever"


async def test_a_history_is_bounded_by_age(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(history_age=1.0), unique("room")
    old, last = await publish(channel, room, ["old", "last"])
    with anyio.fail_after(TIME_LIMIT):
        while await read_back(channel, room):
            await anyio.sleep(0.05)
    with pytest.raises(PositionLost):
        await channel.history(room, since=old)
    assert await read_back(channel, room, since=last) == [], "a position is known for longer"
    await publish(channel, room, ["new"])
    assert await read_back(channel, room, since=last) == ["new"]
    assert channel.layer.retention >= 1.0


async def test_a_history_is_bounded_in_bytes(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(history_length=10, history_bytes=400_000), unique("room")
    positions = await publish(channel, room, [b"%d" % number * 50_000 for number in range(9)])
    [small] = await publish(channel, room, [b"small"])
    events = await channel.history(room)
    assert [event.message[:1] for event in events] == [b"4", b"5", b"6", b"7", b"8", b"s"]
    with pytest.raises(PositionLost):
        await channel.history(room, since=positions[2])
    assert len(await channel.history(room, since=positions[3])) == 6
    await publish(channel, room, [b"9" * 500_000])
    assert [event.message[:1] for event in await channel.history(room)] == [b"s", b"9"], "the last stays"
    assert [event.message[:1] for event in await channel.history(room, since=small)] == [b"9"]
    await publish(channel, room, range(10))
    assert (await read_back(channel, room))[-10:] == list(range(10)), "small messages are bounded by their number"


async def test_purge_forgets_histories(open_channel: Open, unique: Unique) -> None:
    channel, mine = await open_channel(), unique("mine")
    groups = f"{mine}:room", f"{unique('others')}:room"
    async with channel.subscribe(*groups) as subscriber:
        positions = [(await publish(channel, group, [1, 2]))[0] for group in groups]
        await channel.queues.purge(mine)
        assert [len(await channel.history(group)) for group in groups] == [0, 2]
        with pytest.raises(PositionLost):
            await channel.history(groups[0], since=positions[0])
        await publish(channel, groups[0], [3])
        assert await next_of(subscriber, 5) == [1, 2, 1, 2, 3]
        assert await read_back(channel, groups[0]) == [3]


# ---- subscriptions that begin in the past --------------------------------------------------------------------------


async def test_a_subscription_that_begins_in_the_past(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(), unique("room")
    positions = await publish(channel, room, range(100))
    async with channel.subscribe(room, since=positions[0], capacity=10) as subscriber:
        await publish(channel, room, range(100, 105))
        assert await next_of(subscriber, 104) == list(range(1, 105)), "the capacity of 10 is for what is live"
    async with channel.subscribe(room, since=positions[-1]) as subscriber:
        await publish(channel, room, [105])
        assert await next_of(subscriber, 6) == list(range(100, 106))


async def test_a_subscription_that_begins_in_the_past_while_messages_flow(open_channel: Open, unique: Unique) -> None:
    channel, room = await open_channel(), unique("room")
    [since] = await publish(channel, room, [0])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, channel, room, range(1, 500))
        for _ in range(10):
            async with channel.subscribe(room, since=since, capacity=2000) as subscriber:
                assert await next_of(subscriber, 100) == list(range(1, 101))


# ---- outages -------------------------------------------------------------------------------------------------------


async def test_each_message_once_whatever_happens_to_the_connections(
    open_channel: Open, unique: Unique, history_broker: HistoryBroker
) -> None:
    """4,000 of 4,000, for nodes of which some leave and come back with a position, over five broken connections."""
    count = 4_000
    room, chance = unique("room"), random.Random(1)
    writer = await open_channel(history_length=2 * count)
    readers = [await open_channel(history_length=2 * count) for _ in range(2)]
    accepted: set[int] = set()
    numbers, got = itertools.count(), [[] for _ in range(4)]  # type: ignore[var-annotated]
    since = await writer.position(room)

    async def write() -> None:
        while len(accepted) < count:
            number = next(numbers)
            try:
                await writer.publish(room, number)
            except DeliveryUnknown:
                continue  # It may have been accepted or not.
            accepted.add(number)

    async def stay(channel: Channel, received: list[int], *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with channel.subscribe(room, capacity=2 * count, expiry=None) as subscriber:
            task_status.started()
            async for event in subscriber:
                received.append(event.message)

    async def come_and_go(channel: Channel, received: list[int]) -> None:
        position: str | None = since
        while True:
            async with channel.subscribe(room, since=position, capacity=2 * count, expiry=None) as subscriber:
                for _ in range(chance.randrange(1, 600)):
                    event = await subscriber.receive()
                    received.append(event.message)
                    position = event.position

    async with anyio.create_task_group() as tasks:
        for channel, received in zip(readers, got, strict=False):
            await tasks.start(stay, channel, received)
        for channel, received in zip(readers, got[2:], strict=True):
            tasks.start_soon(come_and_go, channel, received)
        with anyio.fail_after(100):
            async with anyio.create_task_group() as writing:
                for _ in range(10):
                    writing.start_soon(write)
                for step in range(1, 6):
                    while len(accepted) < step * count // 7:
                        await anyio.sleep(0.001)
                    await run_sync(history_broker.break_connections)
        await writer.publish(room, -1)
        await becomes_true(lambda: all(received and received[-1] == -1 for received in got))
        tasks.cancel_scope.cancel()
    for received in got:
        assert len(received) == len(set(received)), "nothing twice"
        assert accepted <= set(received), "nothing lost"
    assert len({tuple(number for number in received if number in accepted) for received in got}) == 1, "in one order"


async def test_a_history_that_was_trimmed_while_away_is_a_gap(
    open_channel: Open, unique: Unique, history_broker: HistoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed: list[tuple[str, float]] = []
    writer = await open_channel(history_length=10)
    reader = await open_channel(history_length=10, on_missed=lambda *what: missed.append(what))
    trimmed, quiet, gate = unique("trimmed"), unique("quiet"), anyio.Event()
    connect = reader.layer.connect

    async def connect_later() -> None:
        await gate.wait()
        await connect()

    async with reader.subscribe(trimmed, quiet, capacity=10_000) as subscriber:
        for group in (quiet, trimmed):
            await publish(writer, group, [0])
        assert await next_of(subscriber, 2) == [0, 0]
        monkeypatch.setattr(reader.layer, "connect", connect_later)
        await run_sync(history_broker.break_connections)
        await becomes_true(lambda: reader.outages)
        for number in range(1, 500):
            await publish_at_last(writer, trimmed, number)
        await publish(writer, quiet, [1])
        gate.set()
        await becomes_true(lambda: missed)
        await publish(writer, trimmed, [500])
        assert sorted(await next_of(subscriber, 2)) == [1, 500], "all or nothing"
    [(group, seconds)] = missed
    assert group == trimmed
    assert seconds > 0


async def test_a_session_that_was_ended_is_not_continued(history_broker: HistoryBroker, unique: Unique) -> None:
    [layer], room = history_broker.layers(), unique("room")
    await layer.connect()
    await layer.subscribe(room)
    await layer.disconnect()
    await layer.connect()
    await layer.publish(room, b"1")
    await layer.subscribe(room)
    await layer.publish(room, b"2")
    with anyio.fail_after(TIME_LIMIT):
        assert (await layer.next_published()).message == b"2"
    await layer.disconnect()


async def test_a_pattern_gets_a_gap_after_every_outage(
    kind: Kind, history_broker: HistoryBroker, unique: Unique, pattern_broker: Broker
) -> None:
    assert kind.pattern is not None
    [layer], names = history_broker.layers(), [unique("a"), unique("b"), unique("c")]
    patterns = list(map(kind.pattern, names))
    await layer.connect()
    for pattern in patterns:
        await layer.subscribe_pattern(pattern)
    await layer.unsubscribe_pattern(patterns[1])
    await run_sync(history_broker.break_connections)
    with pytest.raises(ListenerClosed), anyio.fail_after(TIME_LIMIT):
        while True:
            await layer.next_published()
    await layer.disconnect()
    await layer.connect()
    await layer.subscribe_pattern(patterns[0])
    await layer.subscribe_pattern(patterns[1])
    assert layer.subscriptions_restored()
    await layer.subscribe_pattern(patterns[2])
    assert isinstance(await layer.publish(names[2], b"1"), PublishResult)
    with anyio.fail_after(TIME_LIMIT):
        events = [await layer.next_published() for _ in range(2)]
    assert [(type(event), event.subscription) for event in events] == [(Gap, patterns[0]), (Event, patterns[2])]
    await layer.disconnect()


async def test_frozen_broker(open_channel: Open, unique: Unique, mortal_history_broker: Any) -> None:
    """SIGSTOP for longer than the probe interval: every node reconnects, and has missed nothing."""
    room = unique("room")
    writer, reader = await open_channel(), await open_channel()
    async with reader.subscribe(room, capacity=1000) as subscriber:
        await publish(writer, room, range(100))
        mortal_history_broker.freeze()
        await becomes_true(lambda: reader.outages and writer.outages)
        mortal_history_broker.thaw()
        await publish(writer, room, range(100, 200))
        assert await next_of(subscriber, 200) == list(range(200))


async def test_a_broker_that_is_killed_keeps_what_it_has_accepted(
    open_channel: Open, unique: Unique, durable_history_broker: HistoryBroker
) -> None:
    """Killed and started again, or replaced by another: all that was accepted comes, once and in order."""
    room = unique("room")
    writer = await open_channel()
    missed: list[str] = []
    reader = await open_channel(on_missed=lambda group, seconds: missed.append(group))
    async with reader.subscribe(room, capacity=1000) as subscriber:
        positions = await publish(writer, room, range(100))
        await run_sync(durable_history_broker.fail_over)
        await becomes_true(lambda: reader.outages and writer.outages)
        await writer.connected()
        await publish(writer, room, range(100, 200))
        assert await next_of(subscriber, 200) == list(range(200))
    assert missed == []
    assert await read_back(writer, room, since=positions[49]) == list(range(50, 200))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_in_whatever_order(
    open_channel: Open, unique: Unique, history_broker: HistoryBroker, seed: int
) -> None:
    """A subscriber that leaves and comes back, over connections that break, sees one unbroken sequence."""
    chance, room, elsewhere = random.Random(seed), unique("room"), unique("elsewhere")
    missed: list[str] = []
    writer, reader = await open_channel(), await open_channel(on_missed=lambda group, seconds: missed.append(group))
    position, published, read = await writer.position(room), 0, 0
    async with AsyncExitStack() as stack:
        subscriber: Subscriber | None = None
        for action in chance.choices(
            ["publish", "read", "break", "leave", "others come and go"], [4, 3, 2, 1, 1], k=60
        ):
            if subscriber is None:
                subscriber = await stack.enter_async_context(reader.subscribe(room, since=position, capacity=10_000))
            if action == "publish":
                count = chance.randrange(1, 30)
                await publish(writer, room, range(published, published + count))
                published += count
            elif action == "read":
                for _ in range(chance.randrange(published - read + 1)):
                    with anyio.fail_after(TIME_LIMIT):
                        event = await subscriber.receive()
                    assert event.message == read
                    assert event.position is not None
                    position, read = event.position, read + 1
            elif action == "break":
                await run_sync(history_broker.break_connections)
                await publish_at_last(writer, elsewhere, 0)
            elif action == "leave":
                await stack.aclose()
                subscriber = None
            else:
                async with reader.subscribe(room):
                    pass
        if subscriber is None:
            subscriber = await stack.enter_async_context(reader.subscribe(room, since=position, capacity=10_000))
        assert await next_of(subscriber, published - read) == list(range(read, published))
    assert missed == []
