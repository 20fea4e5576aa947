"""`django.listening` and `django.listeners`: what may be listened to, what was missed, and the ends of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from django_anyio_channels import AnyioChannelLayer, InvalidOption, NotSupported, PositionLost, SubscriberFull
from django_anyio_channels.core.exceptions import ListenerClosed

from .helpers import layers, node_in, soon, take_down


def n(number: int) -> dict[str, Any]:
    return {"type": "number", "n": number}


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (["a b"], {}, TypeError, "Group name must be"),
        ([["a"]], {}, TypeError, "Group name must be"),
        ([], {}, TypeError, "at least one group or a pattern"),
        ([], {"pattern": "a:b"}, TypeError, "A pattern is a glob of fewer than 100 characters .*, not 'a:b'"),
        ([], {"pattern": ""}, TypeError, "not ''"),
        ([], {"pattern": b"*"}, TypeError, "not bytes"),
        ([], {"pattern": "*" * 100}, TypeError, "A pattern is a glob"),
        (["a", "b"], {"since": "1"}, TypeError, "a position belongs to the history of one"),
        (["a"], {"since": "1", "overflow": "drop_oldest"}, InvalidOption, "overflow cannot be chosen with since"),
        (["a"], {"overflow": "closed"}, InvalidOption, "Did you mean 'close'"),
        (["a"], {"since": "1"}, NotSupported, "history"),
    ],
)
def test_what_cannot_be_listened_to(names: Any, options: Any, error: type[Exception], message: str) -> None:
    async def main() -> None:
        layer = AnyioChannelLayer()
        with pytest.raises(error, match=message):
            async with layer.listen(*names, **options):
                pass
        await layer.close()

    asyncio.run(main())


def test_a_prefix_that_is_a_pattern_has_none() -> None:
    async def main() -> None:
        with pytest.raises(NotSupported, match=r"With the prefix 'a\*' there are no patterns"):
            async with AnyioChannelLayer(prefix="a*").listen(pattern="*"):
                pass

    asyncio.run(main())


def test_a_listener_has_the_capacity_and_overflow_of_its_call() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(capacity=2)
        async with layer.listen("g") as plain, layer.listen("g", capacity=3, overflow=("latest", "key")) as latest:
            for number in range(5):
                await layer.group_send("g", {**n(number), "key": "k"})
            assert [(await soon(plain.__anext__())).message["n"] for _ in range(2)] == [0, 1]
            assert (await soon(latest.__anext__())).message["n"] == 4
        async with layer.listen("g", overflow="close") as events:
            for number in range(3):
                await layer.group_send("g", n(number))
            with pytest.raises(SubscriberFull):
                async for _ in events:
                    pass
        await layer.close()

    asyncio.run(main())


def test_a_listener_ends_with_the_node_of_its_loop() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer()
        async with layer.listen("g") as events:
            await layer.group_send("g", n(1))
            await layer.close()
            assert [event.message async for event in events] == [n(1)]

    asyncio.run(main())


def test_a_short_lived_loop_has_a_node_while_it_listens() -> None:
    layer = AnyioChannelLayer()

    async def first(group: str) -> Any:
        async with layer.listen(group) as events:
            await layer.group_send(group, n(1))
            return await soon(events.__anext__())

    assert async_to_sync(first)("g").message == n(1)
    assert layer.statistics()["nodes"] == 0


@pytest.mark.parametrize("outage_message", [None, "news.outage"])
def test_an_outage_is_reported_as_to_consumers(outage_message: str | None) -> None:
    async def main() -> None:
        (layer,) = layers(1, outage_message=outage_message)
        async with layer.listen("g") as events:
            connection = await take_down(layer)
            connection.is_down = False
            while True:
                try:
                    await layer.group_send("g", n(1))
                    break
                except ListenerClosed:
                    continue
            event = await soon(events.__anext__())
            if outage_message is not None:
                assert (event.group, event.message["type"]) == ("g", outage_message)
                assert event.message["seconds"] >= 0
                event = await soon(events.__anext__())
            assert event.message == n(1)
        node_in(layer).report_missed(None, 1.0)  # nobody listens any more
        await layer.close()

    asyncio.run(main())


def test_lost_history_ends_a_listener_that_misses_nothing() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(options={"history_length": 10}, outage_message="news.outage")
        await layer.group_send("g", n(0))
        [event] = await layer.group_history("g")
        async with layer.listen("g", since=event.position) as complete, layer.listen("h") as other:
            await layer.group_send("g", n(1))
            node = node_in(layer)
            node.report_missed(node.inbox, 1.0)
            node.report_missed(layer._names.group("g"), 1.0)
            await layer.group_send("g", n(2))
            assert (await soon(complete.__anext__())).message == n(1)
            with pytest.raises(PositionLost, match="The broker has lost messages of group 'g': begin anew"):
                await soon(complete.__anext__())
            await layer.group_send("h", n(3))
            assert (await soon(other.__anext__())).message == n(3)
        await layer.close()

    asyncio.run(main())


def test_on_mqtt_each_group_is_listened_to_by_its_name() -> None:
    layer = AnyioChannelLayer(url="mqtt://localhost:1")
    with pytest.raises(NotSupported, match="MQTT has patterns for levels of topics"):
        layer._topic_pattern("room.*")
