"""A subscriber that begins in the past, when messages come while the history is read."""

from __future__ import annotations

from time import monotonic
from typing import Any

import anyio
import pytest

from django_anyio_channels import Channel, Event, InvalidPosition
from django_anyio_channels.core.notifier import waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.hub.replay import ReplaySink
from django_anyio_channels.hub.subscriber import Subscriber
from tests.support.scripted import TIME_LIMIT, ScriptedLayer

pytestmark = pytest.mark.anyio

SERIALIZER = MessagePackSerializer()


def event(number: int) -> Event[bytes]:
    return Event("room", SERIALIZER.encode(number), position=str(number))


def mailbox(capacity: int) -> Subscriber:
    return Subscriber(
        "room",
        capacity=capacity,
        expiry=60.0,
        decode=SERIALIZER.decode,
        new_waiter=waiter_type(),
        stats=DeliveryStats(),
    )


def is_after(one: str, other: str) -> bool:
    return int(one) > int(other)


def read(subscriber: Subscriber) -> list[object]:
    found = []
    while (event := subscriber.receive_nowait()) is not None:
        found.append(event.message)
    return found


@pytest.mark.parametrize("known", [0, 2, 3])
@pytest.mark.parametrize("live", [0, 1, 3])
async def test_each_message_once_however_far_the_history_reaches(known: int, live: int) -> None:
    subscriber = mailbox(10)
    sink = ReplaySink(subscriber, is_after)
    for number in range(1, live + 1):
        sink.put((monotonic(), event(number)))
    assert len(subscriber) == 0, "held back until the history is there"
    sink.start("0", [event(number) for number in range(1, known + 1)])
    for number in range(live + 1, 6):
        sink.put((monotonic(), event(number)))
    assert read(subscriber) == [1, 2, 3, 4, 5]


async def test_the_gap_event_stands_where_events_are_missing() -> None:
    subscriber = mailbox(2)
    sink = ReplaySink(subscriber, is_after, Event("room", SERIALIZER.encode("missing")))
    sink.put((monotonic(), event(2)))
    sink.mark_gap()
    sink.put((monotonic(), event(3)))
    sink.start("0", [event(1)])
    assert read(subscriber) == [1, 2, "missing", "missing"], "its capacity of 2 is for live events, and one was dropped"
    for number in range(4, 9):
        sink.put((monotonic(), event(number)))
    sink.mark_gap()
    assert read(subscriber) == [4, 5, "missing", "missing"], "once because it was full, once by `mark_gap`"
    sink.put((monotonic(), event(9)))
    assert read(subscriber) == [9]


async def test_without_a_gap_event_gaps_are_silent() -> None:
    subscriber = mailbox(2)
    sink = ReplaySink(subscriber, is_after)
    sink.start("0", [])
    sink.mark_gap()
    for number in (1, 2, 3):
        sink.put((monotonic(), event(number)))
    assert read(subscriber) == [1, 2]


# ---- a Channel over a layer with a history -------------------------------------------------------------------------


class RecordingLayer(ScriptedLayer):
    """A layer with a history that holds what it is given."""

    def __init__(self, *messages: bytes) -> None:
        super().__init__()
        self.entries = [Event("room", message, position=str(number)) for number, message in enumerate(messages, 1)]

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        await self._enter("history", group)
        found = [entry for entry in self.entries if since is None or is_after(str(entry.position), since)]
        return found if limit is None else found[:limit]

    async def position(self, group: str) -> str:
        await self._enter("position", group)
        return str(self.entries[-1].position)

    def is_after(self, position: str, other: str) -> bool:
        return is_after(position, other)


async def test_a_history_is_decoded_and_an_undecodable_entry_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    layer = RecordingLayer(SERIALIZER.encode(1), b"\xc1", SERIALIZER.encode(3))
    async with Channel(layer) as channel:
        assert await channel.history("room") == [Event("room", 1), Event("room", 3)]
        assert [event.position for event in await channel.history("room", since="1", limit=2)] == ["3"]
        assert await channel.position("room") == "3"
        assert channel.stats.undecodable == 2
    assert "Dropped a message for room" in caplog.text


async def test_a_subscription_since_a_position_begins_with_the_history_after_it() -> None:
    layer = RecordingLayer(*(SERIALIZER.encode(number) for number in range(1, 4)))
    async with Channel(layer, capacity=1) as channel, channel.subscribe("room", since="1") as subscriber:
        layer.play(event(3), event(4))
        with anyio.fail_after(TIME_LIMIT):
            assert [(await subscriber.receive()).message for _ in range(3)] == [2, 3, 4]


async def test_a_position_belongs_to_one_group() -> None:
    async with Channel(RecordingLayer()) as channel:
        for groups, pattern in ((("a", "b"), None), (("a",), "b*"), ((), "b*")):
            with pytest.raises(TypeError, match="a position belongs to the history of one"):
                async with channel.subscribe(*groups, pattern=pattern, since="1"):
                    pass


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"limit": -1}, ValueError, "limit is -1; it must be 0 messages or more"),
        ({"limit": True}, TypeError, "limit is True; it must be a whole number"),
        ({"limit": 1.5}, TypeError, r"limit is 1\.5; it must be a whole number"),
        ({"limit": "3"}, TypeError, "limit is '3'; it must be a whole number"),
        ({"since": 7}, InvalidPosition, "7 is not a position; use a str"),
        ({"since": ["x" * 1000]}, InvalidPosition, r"\['x{12}\.\.\.x{13}'\] is not a position"),
        ({"since": b"1"}, InvalidPosition, "b'1' is not a position"),
    ],
)
async def test_a_range_that_no_history_can_take(arguments: Any, error: type[Exception], text: str) -> None:
    layer = RecordingLayer(SERIALIZER.encode(1))
    async with Channel(layer) as channel:
        with pytest.raises(error, match=text):
            await channel.history("room", **arguments)
        if "since" in arguments:
            with pytest.raises(error, match=text):
                async with channel.subscribe("room", **arguments):
                    pass
    assert "history" not in [call[0] for call in layer.calls]


async def test_the_name_of_a_group_is_a_string() -> None:
    async with Channel(RecordingLayer(SERIALIZER.encode(1))) as channel:
        name: Any = 7
        for call in (channel.history, channel.position):
            with pytest.raises(TypeError, match="The name of a group is a str, not int"):
                await call(name)
        with pytest.raises(TypeError, match="The name of a group is a str, not int"):
            async with channel.subscribe(name):
                pass
