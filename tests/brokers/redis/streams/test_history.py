"""Reading back what was published: `Channel.history`, `group_history`, and subscriptions that begin in the past."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from django_anyio_channels import (
    AnyioChannelLayer,
    Channel,
    InMemoryChannelLayer,
    InvalidPosition,
    NotSupported,
    PositionLost,
    RedisStreamsChannelLayer,
)
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio


@pytest.fixture
async def channel(server: brokers.Redis) -> AsyncIterator[Channel]:
    layer = RedisStreamsChannelLayer(brokers.with_streams(server.url), history_length=1000)
    async with Channel(layer, capacity=10) as opened:
        yield opened


async def publish(channel: Channel, first: int, end: int) -> list[str]:
    """Publish numbers to the room, and return their positions."""
    positions = []
    for number in range(first, end):
        accepted = await channel.publish("room", number)
        assert accepted.position is not None
        positions.append(accepted.position)
    return positions


async def numbers(channel: Channel, **options: Any) -> list[int]:
    return [event.message for event in await channel.history("room", **options)]


async def test_history(channel: Channel) -> None:
    assert await channel.history("room") == []
    positions = await publish(channel, 0, 600)
    assert await numbers(channel) == list(range(600))
    assert await numbers(channel, limit=3) == [597, 598, 599]
    assert await numbers(channel, limit=0) == []
    assert await numbers(channel, since=positions[0]) == list(range(1, 600))
    assert await numbers(channel, since=positions[9], limit=3) == [10, 11, 12]
    assert await numbers(channel, since=positions[599]) == []
    events = await channel.history("room", limit=2)
    assert [(event.group, event.position) for event in events] == [("room", position) for position in positions[-2:]]


async def test_a_history_that_does_not_reach_back(channel: Channel, server: brokers.Redis) -> None:
    positions = await publish(channel, 0, 3)
    server.ask("XTRIM", "{room}|history", "MAXLEN", 1)
    with pytest.raises(PositionLost, match=rf"history of room does not reach back to {positions[0]}.*Begin with the"):
        await channel.history("room", since=positions[0])
    assert await numbers(channel, since=positions[1]) == [2]
    server.ask("DEL", "{room}|history")
    with pytest.raises(PositionLost):
        await channel.history("room", since=positions[1])
    assert await numbers(channel, since=positions[2]) == []
    server.ask("FLUSHALL")
    with pytest.raises(PositionLost):
        await channel.history("room", since=positions[2])


BEYOND = [f"01234567-{number}" for number in (f"1700000000000-{2**64}", f"{2**64}-0", f"{10**13}-0", f"1-{10**20}")]


async def test_a_history_is_bounded_in_bytes(server: brokers.Redis) -> None:
    layer = RedisStreamsChannelLayer(brokers.with_streams(server.url), history_length=10, history_bytes=400_000)
    async with Channel(layer) as channel:
        positions = [str((await channel.publish("room", b"%d" % n * 50_000)).position) for n in range(9)]
        small = await channel.publish("room", b"small")
        events = await channel.history("room")
        assert [event.message[:1] for event in events] == [b"4", b"5", b"6", b"7", b"8", b"s"]
        with pytest.raises(PositionLost):
            await channel.history("room", since=positions[2])
        assert len(await channel.history("room", since=positions[3])) == 6
        await channel.publish("room", b"9" * 500_000)
        assert [event.message[:1] for event in await channel.history("room")] == [b"s", b"9"], "the last stays"
        assert [event.message[:1] for event in await channel.history("room", since=small.position)] == [b"9"]
        await publish(channel, 0, 10)
        assert (await numbers(channel))[-10:] == list(range(10)), "small messages are bounded by their number"


@pytest.mark.parametrize(
    "commands", [[("DEL", "{room}|large"), ("SET", "{room}|large", "x")], [("RPUSH", "{room}|large", "x")]]
)
async def test_a_forgery_of_what_is_large_ends_nothing(server: brokers.Redis, commands: list[tuple[str, ...]]) -> None:
    layer = RedisStreamsChannelLayer(brokers.with_streams(server.url), history_bytes=400_000)
    async with Channel(layer) as channel:
        await channel.publish("room", b"x" * 50_000)
        for command in commands:
            server.ask(*command)
        for _ in range(20):
            await channel.publish("room", b"x" * 50_000)
        assert 5 <= len(await channel.history("room")) <= 7
        await channel.queues.purge("room")
        assert server.ask("KEYS", "*room*") == ["{room}|position"]


@pytest.mark.parametrize("since", ["", "1", "room", "01234567-1-1 ", "Ω", "x" * 10**6, *BEYOND])
async def test_what_is_no_position(channel: Channel, since: str) -> None:
    [position] = await publish(channel, 0, 1)
    since = since.replace("01234567", position[:8])
    with pytest.raises(InvalidPosition, match="is no position; take Event.position") as caught:
        await channel.history("room", since=since)
    assert len(str(caught.value)) < 200
    with pytest.raises(InvalidPosition):
        async with channel.subscribe("room", since=since):
            raise AssertionError("nobody gets here")


async def test_the_largest_limit(channel: Channel) -> None:
    [position, _] = await publish(channel, 0, 2)
    assert await numbers(channel, limit=10**30) == [0, 1]
    assert await numbers(channel, since=position, limit=10**30) == [1]


async def test_what_cannot_be_decoded_is_left_out(channel: Channel) -> None:
    await channel.publish_payload("room", b"\xc1")
    await publish(channel, 1, 2)
    assert await numbers(channel) == [1]
    assert channel.stats.undecodable == 1


async def test_a_subscription_that_begins_in_the_past(channel: Channel) -> None:
    positions = await publish(channel, 0, 100)
    async with channel.subscribe("room", since=positions[0]) as subscriber:
        await publish(channel, 100, 105)
        with anyio.fail_after(25):
            got = [(await anext(subscriber)).message for _ in range(104)]
        assert got == list(range(1, 105)), "the capacity of 10 is for what is live"
    async with channel.subscribe("room", since=positions[-1]) as subscriber:
        await publish(channel, 105, 106)
        assert [(await anext(subscriber)).message for _ in range(6)] == list(range(100, 106))


async def test_a_subscription_that_begins_in_the_past_while_messages_flow(channel: Channel) -> None:
    [since] = await publish(channel, 0, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, channel, 1, 1000)
        for _ in range(10):
            async with channel.subscribe("room", since=since, capacity=2000) as subscriber:
                with anyio.fail_after(25):
                    got = [(await anext(subscriber)).message for _ in range(100)]
            assert got == list(range(1, 101))


async def test_a_subscription_to_a_position_that_is_lost(channel: Channel, server: brokers.Redis) -> None:
    [since, _] = await publish(channel, 0, 2)
    server.ask("FLUSHALL")
    with pytest.raises(PositionLost, match="room"):
        async with channel.subscribe("room", since=since):
            raise AssertionError("nobody gets here")
    async with channel.subscribe("room") as subscriber:
        await publish(channel, 2, 3)
        assert (await anext(subscriber)).message == 2


async def test_a_position_belongs_to_one_group(channel: Channel) -> None:
    for groups, pattern in ((("a", "b"), None), ((), "a*"), (("a",), "a*")):
        with pytest.raises(TypeError, match="takes one group"):
            async with channel.subscribe(*groups, pattern=pattern, since="01234567-1-1"):
                raise AssertionError("nobody gets here")


async def test_the_channel_ends_what_has_begun_in_the_past(server: brokers.Redis) -> None:
    async with Channel(RedisStreamsChannelLayer(brokers.with_streams(server.url))) as channel:
        [since] = await publish(channel, 0, 1)
        subscription = channel.subscribe("room", since=since)
        subscriber = await subscription.__aenter__()
    assert [event.message async for event in subscriber] == []
    await subscription.__aexit__(None, None, None)


async def test_brokers_without_history_say_so() -> None:
    layers = [InMemoryChannelLayer(), InMemoryChannelLayer()]
    for count in (1, 2):
        async with Channel(layers[:count]) as channel:
            with pytest.raises(NotSupported, match=r"InMemoryChannelLayer keeps no history.*set history_length"):
                await channel.history("room")
    with pytest.raises(NotSupported, match="keeps no history"):
        layers[0].is_after("01234567-1-1", "01234567-1-1")


async def test_histories_on_several_brokers(server: brokers.Redis) -> None:
    url = brokers.with_streams(server.url)
    async with Channel([RedisStreamsChannelLayer(f"{url}/{database}") for database in (0, 1)]) as channel:
        [since, end] = await publish(channel, 0, 2)
        assert await channel.position("room") == end
        assert await numbers(channel) == [0, 1]
        async with channel.subscribe("room", since=since) as subscriber:
            assert (await anext(subscriber)).message == 1


async def test_group_history(server: brokers.Redis) -> None:
    layer = AnyioChannelLayer(url=brokers.with_streams(server.url))
    for number in range(3):
        await layer.group_send("room", {"type": "chat", "n": number})
    events = await layer.group_history("room", limit=2)
    assert [(event.group, event.message) for event in events] == [
        ("room", {"type": "chat", "n": 1}),
        ("room", {"type": "chat", "n": 2}),
    ]
    assert await layer.group_history("room", since=events[0].position) == events[1:]
    with pytest.raises(TypeError, match="Group"):
        await layer.group_history("no such room!")
    await layer.close()
