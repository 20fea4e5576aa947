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
    NotSupported,
    PositionLost,
    RedisStreamsChannelLayer,
    position_of,
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


async def test_a_server_that_lost_its_memory_is_a_gap_for_who_resumed(own_server: brokers.Redis) -> None:
    layer = AnyioChannelLayer(url=brokers.with_streams(own_server.url))
    resumed, added = await layer.new_channel(), await layer.new_channel()
    await layer.group_resume("room", resumed)
    await layer.group_resume("hall", resumed)
    await layer.group_add("room", added)
    await layer.group_send("room", {"type": "chat", "n": 0})
    message = await layer.receive(resumed)
    await anyio.to_thread.run_sync(own_server.server.kill)
    await anyio.to_thread.run_sync(own_server.server.start)
    with anyio.fail_after(25):
        reports = [await layer.receive(resumed) for _ in range(2)]
    assert sorted(each["group"] for each in reports) == ["hall", "room"]
    assert {each["type"] for each in reports} == {"group.missed"}
    await layer.group_send("room", {"type": "chat", "n": 1})
    assert (await layer.receive(resumed))["n"] == 1
    assert [(await layer.receive(added))["n"] for _ in range(2)] == [0, 1], "no outage_message is set"
    with pytest.raises(PositionLost):
        await layer.group_resume("room", await layer.new_channel(), since=position_of(message))
    await layer.close()
