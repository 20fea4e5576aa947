"""Pattern subscriptions, for every broker that has them; the others say what to use instead."""

from __future__ import annotations

import anyio
import pytest

from django_anyio_channels import BaseChannelLayer, Event, ListenerClosed, NotSupported

from .helpers import Unique, connected, read
from .kinds import Broker, Kind

pytestmark = pytest.mark.anyio


def pattern_for(kind: Kind, beginning: str) -> str:
    """The pattern, in this broker's language, for every group that begins so."""
    assert kind.pattern is not None
    return kind.pattern(beginning)


async def test_a_pattern_sees_every_group_that_matches(pattern_broker: Broker, kind: Kind, unique: Unique) -> None:
    async with connected(pattern_broker, 2) as (reader, writer):
        beginning = unique("room.")
        pattern = pattern_for(kind, beginning + ".")
        await reader.subscribe_pattern(pattern)
        await writer.publish(beginning + ".one", b"1")
        await writer.publish(unique("other"), b"not matched")
        await writer.publish(beginning + ".two", b"2")
        assert sorted(await read(reader, 2), key=lambda event: event.message) == [
            Event(beginning + ".one", b"1", subscription=pattern),
            Event(beginning + ".two", b"2", subscription=pattern),
        ]


async def test_a_pattern_and_a_name_are_two_subscriptions(pattern_broker: Broker, kind: Kind, unique: Unique) -> None:
    async with connected(pattern_broker) as (layer,):
        beginning = unique("room.")
        pattern, group = pattern_for(kind, beginning), beginning + ".one"
        await layer.subscribe_pattern(pattern)
        await layer.subscribe(group)
        await layer.publish(group, b"both")
        assert {event.subscription or event.group for event in await read(layer, 2)} == {pattern, group}
        await layer.unsubscribe(group)
        await layer.publish(group, b"pattern only")
        await layer.subscribe(group)
        await layer.unsubscribe_pattern(pattern)
        await layer.publish(group, b"name only")
        assert await read(layer, 2) == [
            Event(group, b"pattern only", subscription=pattern),
            Event(group, b"name only"),
        ]


async def test_two_patterns_that_match_one_group_each_get_the_event(
    pattern_broker: Broker, kind: Kind, unique: Unique
) -> None:
    async with connected(pattern_broker) as (layer,):
        beginning = unique("room.")
        patterns = {pattern_for(kind, beginning), pattern_for(kind, beginning + ".a")}
        for pattern in patterns:
            await layer.subscribe_pattern(pattern)
        await layer.publish(beginning + ".a.b", b"both")
        assert {event.subscription for event in await read(layer, 2)} == patterns


async def test_a_pattern_of_one_layer_is_not_anothers(pattern_broker: Broker, kind: Kind, unique: Unique) -> None:
    async with connected(pattern_broker, 2) as (one, two):
        beginning = unique("room.")
        pattern = pattern_for(kind, beginning)
        await one.subscribe_pattern(pattern)
        await two.subscribe_pattern(pattern)
        await one.unsubscribe_pattern(pattern)
        await one.publish(beginning + ".x", b"for two")
        await one.subscribe(beginning + ".x")
        await one.publish(beginning + ".x", b"for both")
        assert await read(one, 1) == [Event(beginning + ".x", b"for both")]
        assert [event.message for event in await read(two, 2)] == [b"for two", b"for both"]


async def test_a_pattern_subscribed_twice_is_subscribed_once(
    pattern_broker: Broker, kind: Kind, unique: Unique
) -> None:
    async with connected(pattern_broker) as (layer,):
        beginning = unique("room.")
        pattern = pattern_for(kind, beginning)
        await layer.subscribe_pattern(pattern)
        await layer.subscribe_pattern(pattern)
        await layer.publish(beginning, b"1")
        await layer.publish(beginning, b"2")
        assert [event.message for event in await read(layer, 2)] == [b"1", b"2"]


async def test_unsubscribing_an_unknown_pattern_does_nothing(
    pattern_broker: Broker, kind: Kind, unique: Unique
) -> None:
    async with connected(pattern_broker) as (layer,):
        await layer.unsubscribe_pattern(pattern_for(kind, unique("never")))
        await layer.subscribe(group := unique("g"))
        await layer.unsubscribe_pattern(pattern_for(kind, group))
        await layer.publish(group, b"still here")
        assert await read(layer, 1) == [Event(group, b"still here")]


async def test_a_second_session_has_no_patterns(pattern_broker: Broker, kind: Kind, unique: Unique) -> None:
    async with connected(pattern_broker) as (layer,):
        group = unique("room.")
        await layer.subscribe_pattern(pattern_for(kind, group))
        await layer.disconnect()
        await layer.connect()
        await layer.publish(group, b"for nobody")
        await layer.subscribe(group)
        await layer.publish(group, b"seen")
        assert await read(layer, 1) == [Event(group, b"seen")]


async def test_patterns_after_disconnect_raise_listener_closed(
    pattern_broker: Broker, kind: Kind, unique: Unique
) -> None:
    async with connected(pattern_broker) as (layer,):
        pattern = pattern_for(kind, unique("room."))
        await layer.disconnect()
        for verb in (layer.subscribe_pattern, layer.unsubscribe_pattern):
            with pytest.raises(ListenerClosed):
                await verb(pattern)


async def test_coming_and_going_patterns_do_not_disturb_a_steady_one(
    pattern_broker: Broker, kind: Kind, unique: Unique
) -> None:
    async with connected(pattern_broker, 2) as (layer, writer):
        steady = unique("steady")
        await layer.subscribe_pattern(pattern_for(kind, steady))

        async def come_and_go(layer: BaseChannelLayer) -> None:
            for _ in range(10):
                pattern = pattern_for(kind, unique("noise"))
                await layer.subscribe_pattern(pattern)
                await layer.unsubscribe_pattern(pattern)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(come_and_go, layer)
            for number in range(50):
                await writer.publish(steady, b"%d" % number)
        assert [event.message for event in await read(layer, 50)] == [b"%d" % number for number in range(50)]


async def test_a_broker_without_patterns_says_what_to_use(patternless_broker: Broker, unique: Unique) -> None:
    async with connected(patternless_broker) as (layer,):
        for verb in (layer.subscribe_pattern, layer.unsubscribe_pattern):
            with pytest.raises(NotSupported, match="subscribe to each group by its name"):
                await verb(unique("room.*"))
