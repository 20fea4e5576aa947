"""A subscriber that begins in the past, when messages come while the history is read."""

from __future__ import annotations

from time import monotonic

import pytest

from django_anyio_channels import Event
from django_anyio_channels.losses import Losses
from django_anyio_channels.rejoining import Rejoining
from django_anyio_channels.serializers import MessagePackSerializer
from django_anyio_channels.subscriber import Subscriber
from django_anyio_channels.waiting import waiter_factory

pytestmark = pytest.mark.anyio

SERIALIZER = MessagePackSerializer()


def event(number: int) -> Event[bytes]:
    return Event("room", SERIALIZER.encode(number), position=str(number))


@pytest.mark.parametrize("known", [0, 2, 3])
async def test_each_message_once_however_far_the_history_reaches(known: int) -> None:
    subscriber = Subscriber(
        "room",
        capacity=10,
        expiry=60.0,
        decode=SERIALIZER.decode,
        new_waiter=waiter_factory(),
        losses=Losses(),
    )
    sink = Rejoining(subscriber, lambda one, other: int(one) > int(other))
    for number in (1, 2, 3):
        sink.put((monotonic(), event(number)))
    assert len(subscriber) == 0, "held back until the history is there"
    sink.begin("0", [event(number) for number in range(1, known + 1)])
    sink.put((monotonic(), event(4)))
    received = [subscriber.receive_nowait() for _ in range(4)]
    assert [each.message for each in received if each is not None] == [1, 2, 3, 4]
    assert subscriber.receive_nowait() is None
