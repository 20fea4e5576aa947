"""Consumers whose browsers come back with a position: what they missed, each once, in order, or word that it's lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import anyio
import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import BaseChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import (
    AnyioChannelLayer,
    AsyncResumingMixin,
    DeliveryUnknown,
    GroupMessage,
    InvalidPosition,
    PositionLost,
    ResumingMixin,
    position_of,
)

from .helpers import Unique
from .kinds import HistoryBroker

pytestmark = pytest.mark.anyio

NOWHERE = "01234567-1-1"
OUT_OF_RANGE = f"01234567-{2**64}-0"


NewLayer = Callable[..., AnyioChannelLayer]


@pytest.fixture
async def new_layer(django_history_broker: HistoryBroker, unique: Unique) -> AsyncIterator[NewLayer]:
    """Makes layers of one prefix, each as in a process of its own, with such a history and such keys of CONFIG."""
    made: list[AnyioChannelLayer] = []
    prefix = unique("t")

    def new(history_length: int = 10, **config: Any) -> AnyioChannelLayer:
        config = {**django_history_broker.config(history_length=history_length), "prefix": prefix, **config}
        made.append(AnyioChannelLayer(**config))
        return made[-1]

    yield new
    for layer in made:
        await layer.close()


@pytest.fixture
def layer(new_layer: NewLayer) -> AnyioChannelLayer:
    """A layer that keeps ten messages of each group."""
    return new_layer(channel_capacity={"small.*": 3})


async def becomes_true(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def publish(layer: AnyioChannelLayer, first: int, end: int, group: str = "room") -> None:
    for number in range(first, end):
        await layer.group_send(group, {"type": "chat", "n": number})


async def received(layer: AnyioChannelLayer, channel: str, count: int) -> list[int]:
    with anyio.fail_after(25):
        return [(await layer.receive(channel))["n"] for _ in range(count)]


# ---- positions ---------------------------------------------------------------------------------------------------


async def test_a_message_knows_its_group_and_its_position(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    for group in ("one", "two"):
        await layer.group_add(group, channel)
    await publish(layer, 0, 1, "one")
    await publish(layer, 1, 2, "two")
    await layer.send(channel, {"type": "chat", "n": 2})
    one, two, direct = [await layer.receive(channel) for _ in range(3)]
    assert [one, two, direct] == [{"type": "chat", "n": number} for number in range(3)], "equal to what was sent"
    assert isinstance(one, GroupMessage)
    assert isinstance(two, GroupMessage)
    assert (one.group, two.group) == ("one", "two")
    for message in (one, two):
        [event] = await layer.group_history(message.group)
        assert position_of(message) == event.position
    assert type(direct) is dict
    assert position_of(direct) is None


async def test_it_may_be_sent_on(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("one", channel)
    await publish(layer, 0, 1, "one")
    await layer.send(channel, await layer.receive(channel))
    assert await received(layer, channel, 1) == [0]


async def test_readers_of_a_prefix_get_it_too(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("one", channel)
    await publish(layer, 0, 1, "one")
    assert position_of(await layer.receive(channel.partition("!")[0] + "!")) is not None


async def test_it_keeps_its_place_when_its_reader_has_gone(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("one", channel)
    await publish(layer, 0, 1, "one")
    message = await layer.receive(channel)
    node = layer._dispatcher.node_of_loop[asyncio.get_running_loop()]
    node.put_back(channel, message)
    again = await layer.receive(channel)
    assert isinstance(again, GroupMessage)
    assert (again, again.group, again.position) == (message, "one", position_of(message))


# ---- coming back ---------------------------------------------------------------------------------------------------


async def test_what_was_missed_comes_first_then_what_is_live(layer: AnyioChannelLayer) -> None:
    await publish(layer, 0, 5)
    since = (await layer.group_history("room", limit=3))[0].position
    channel = await layer.new_channel("small")
    assert await layer.group_resume("room", channel, since=since) == since
    await publish(layer, 5, 8)
    assert await received(layer, channel, 5) == [3, 4, 5, 6, 7], "its capacity of 3 is for what is live"
    await layer.group_discard("room", channel)
    assert await layer.group_resume("room", channel, since=since) == since
    assert await received(layer, channel, 5) == [3, 4, 5, 6, 7], "again after it has left"


async def test_the_last_messages_come_first(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    beginning = await layer.group_resume("room", channel, last=2)
    assert beginning is not None, "before the first message"
    await publish(layer, 0, 3)
    assert await received(layer, channel, 3) == [0, 1, 2]
    other = await layer.new_channel()
    assert await layer.group_resume("room", other, last=2) is None, "the messages bring their own"
    assert await received(layer, other, 2) == [1, 2]
    third = await layer.new_channel()
    end = await layer.group_resume("room", third)
    assert end == (await layer.group_history("room", limit=1))[0].position
    fourth = await layer.new_channel()
    assert await layer.group_resume("room", fourth, since=beginning) == beginning
    assert await received(layer, fourth, 3) == [0, 1, 2]


async def test_a_channel_that_comes_back_often_keeps_its_capacity(layer: AnyioChannelLayer) -> None:
    await publish(layer, 0, 5)
    since = (await layer.group_history("room", limit=5))[0].position
    channel = await layer.new_channel("small")
    for _ in range(3):
        await layer.group_resume("room", channel, since=since)
        assert await received(layer, channel, 4) == [1, 2, 3, 4]
        await layer.group_discard("room", channel)
    await layer.group_add("room", channel)
    await publish(layer, 5, 10)
    await becomes_true(lambda: layer.statistics()["dropped"] == 2)
    assert await received(layer, channel, 3) == [5, 6, 7]


async def test_while_messages_flow_nothing_is_missed_or_doubled(new_layer: NewLayer) -> None:
    layer = new_layer(1000)
    channel = await layer.new_channel()
    await layer.group_resume("room", channel)
    reached = -1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish, layer, 0, 400)
        for _ in range(20):
            message = await layer.receive(channel)
            assert message["n"] == reached + 1
            reached += 1
            channel = await layer.new_channel()
            await layer.group_resume("room", channel, since=position_of(message))
    assert reached == 19


async def test_what_cannot_be_resumed_is_reported(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    with pytest.raises(PositionLost, match="does not reach back to 01234567-1-1"):
        await layer.group_resume("room", channel, since=NOWHERE)
    with pytest.raises(InvalidPosition, match="is no position; take Event.position"):
        await layer.group_resume("room", channel, since="yesterday")
    for last, error in ((-1, ValueError), (True, TypeError), (1.5, TypeError)):
        with pytest.raises(error, match=f"last is {last}; it must be"):
            await layer.group_resume("room", channel, last=last)  # type: ignore[arg-type]
    assert layer.statistics()["channels"] == 0, "nothing is left of it"
    await layer.group_resume("room", channel)
    with pytest.raises(ValueError, match="already in group .room.. Call group_discard"):
        await layer.group_resume("room", channel)
    with pytest.raises(ValueError, match="the process or event loop that made the name .* is another one"):
        await layer.group_resume("room", "specific.0123456789abcdef!0.abc")
    with pytest.raises(TypeError, match="Group"):
        await layer.group_resume("no room!", channel)


async def test_from_another_event_loop(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel()
    await publish(layer, 0, 2)

    def resume() -> str | None:
        return asyncio.run(layer.group_resume("room", channel, last=1))

    assert await asyncio.to_thread(resume) is None
    assert await received(layer, channel, 1) == [1]


async def test_a_reader_who_is_too_slow_learns_where_messages_are_missing(layer: AnyioChannelLayer) -> None:
    channel = await layer.new_channel("small")
    await layer.group_resume("room", channel)
    await layer.group_resume("hall", channel)
    await publish(layer, 0, 6)
    await becomes_true(lambda: layer.statistics()["dropped"] == 3)
    assert await received(layer, channel, 3) == [0, 1, 2]
    assert await layer.receive(channel) == {"type": "group.missed", "group": "room"}
    await publish(layer, 6, 10)
    await becomes_true(lambda: layer.statistics()["dropped"] == 4)
    assert await received(layer, channel, 3) == [6, 7, 8]
    assert await layer.receive(channel) == {"type": "group.missed", "group": "room"}, "once more"


async def test_each_message_once_over_broken_connections_full_mailboxes_and_new_beginnings(
    new_layer: NewLayer, django_history_broker: HistoryBroker
) -> None:
    writer, reader = new_layer(5000), new_layer(5000, channel_capacity={"small.*": 10})
    channel = await reader.new_channel("small")
    since = await reader.group_resume("room", channel)
    accepted, received, holes = set(), [], 0

    async def write(last: int) -> None:
        for number in range(last + 1):
            try:
                await publish(writer, number, number + 1)
            except DeliveryUnknown:
                assert number < last
            else:
                accepted.add(number)
            if number % 100 == 50:
                await anyio.to_thread.run_sync(django_history_broker.break_connections)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, 500)
        await becomes_true(lambda: reader.statistics()["dropped"])
        with anyio.fail_after(50):
            while 500 not in received:
                message = await reader.receive(channel)
                if message["type"] == "chat":
                    received.append(message["n"])
                    since = position_of(message)
                else:
                    holes += 1
                if message["type"] == "group.missed" or len(received) % 70 == 0:
                    await reader.group_discard("room", channel)
                    channel = await reader.new_channel("small")
                    await reader.group_resume("room", channel, since=since)
    assert received == sorted(set(received)), "in order, nothing twice"
    assert accepted <= set(received), "nothing lost"
    assert holes > 0


# ---- consumers -----------------------------------------------------------------------------------------------------


class Window(AsyncResumingMixin, AsyncJsonWebsocketConsumer):
    """What docs/history.rst shows, in short."""

    async def connect(self) -> None:
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        resumption = await self.resume_group("room", content.get("since"), last=2)
        await self.send_json([resumption.position, resumption.complete, resumption.has_history])

    async def chat(self, message: dict[str, Any]) -> None:
        await self.send_json([message["n"], position_of(message)])


class SyncWindow(ResumingMixin, JsonWebsocketConsumer):
    """The same, synchronous."""

    def connect(self) -> None:
        self.accept()

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        resumption = self.resume_group("room", content.get("since"), last=2)
        self.send_json([resumption.position, resumption.complete, resumption.has_history])

    def chat(self, message: dict[str, Any]) -> None:
        self.send_json([message["n"], position_of(message)])


@pytest.fixture
def projects_layer(layer: AnyioChannelLayer) -> Iterator[AnyioChannelLayer]:
    """What ``get_channel_layer()`` returns during the test."""
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", cast(BaseChannelLayer, before))


async def window(consumer: type, since: object = None) -> WebsocketCommunicator:
    made = WebsocketCommunicator(consumer.as_asgi(), "/")  # type: ignore[attr-defined]
    connected, _ = await made.connect(timeout=25)
    assert connected
    await made.send_json_to({"since": since})
    return made


async def read(opened: WebsocketCommunicator, count: int) -> list[Any]:
    return [await opened.receive_json_from(timeout=25) for _ in range(count)]


@pytest.mark.parametrize("consumer", [Window, SyncWindow])
async def test_a_browser_that_comes_back(consumer: type, projects_layer: AnyioChannelLayer) -> None:
    await publish(projects_layer, 0, 3)
    first = await window(consumer)
    opened, *shown = await read(first, 3)
    assert opened == [None, True, True]
    assert [number for number, _ in shown] == [1, 2], "the last two"
    await first.disconnect()
    await publish(projects_layer, 3, 9)
    second = await window(consumer, since=shown[-1][1])
    back, *missed = await read(second, 7)
    assert back == [shown[-1][1], True, True]
    assert [number for number, _ in missed] == [3, 4, 5, 6, 7, 8]
    await publish(projects_layer, 9, 10)
    assert (await read(second, 1))[0][0] == 9
    assert await second.receive_nothing()
    await second.disconnect()


@pytest.mark.parametrize("consumer", [Window, SyncWindow])
@pytest.mark.parametrize("since", [NOWHERE, OUT_OF_RANGE, f"01234567-1-{2**64}", "yesterday", 7, ["x"], {}])
async def test_a_browser_that_cannot(consumer: type, since: object, projects_layer: AnyioChannelLayer) -> None:
    await publish(projects_layer, 0, 3)
    position = (await projects_layer.group_history("room"))[0].position
    if isinstance(since, str):
        since = since.replace(NOWHERE[:8], str(position)[:8])
    opened = await window(consumer, since)
    flags, *shown = await read(opened, 3)
    assert flags == [None, False, True]
    assert [number for number, _ in shown] == [1, 2]
    await opened.disconnect()


@pytest.mark.parametrize("consumer", [Window, SyncWindow])
async def test_a_browser_is_sent_away_to_come_back_for_what_is_missing(
    consumer: type, projects_layer: AnyioChannelLayer
) -> None:
    await publish(projects_layer, 0, 1)
    await projects_layer.group_history("room")  # This event loop has a node from here on, which sees a consumer end.
    opened = await window(consumer)
    await read(opened, 2)
    node = projects_layer._dispatcher.node_of_loop[asyncio.get_running_loop()]
    node.report_missed(projects_layer._settings.names.group("room"), 1.0)
    assert await opened.receive_output(timeout=25) == {"type": "websocket.close", "code": 4013}
    await opened.wait(timeout=25)
    await becomes_true(lambda: projects_layer.statistics()["channels"] == 0)
