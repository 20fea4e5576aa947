"""A subscriber that begins in the past, when messages come while the history is read."""

from __future__ import annotations

from time import monotonic

import pytest

from django_anyio_channels import Event
from django_anyio_channels.core.notifier import waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.hub.replay import ReplaySink
from django_anyio_channels.hub.subscriber import Subscriber

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
    assert read(subscriber) == [1, 2, "missing", "missing"], "its capacity is 3 now, and one event was dropped"
    for number in range(4, 9):
        sink.put((monotonic(), event(number)))
    sink.mark_gap()
    assert read(subscriber) == [4, 5, 6, "missing", "missing"], "once because it was full, once by `mark_gap`"
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
