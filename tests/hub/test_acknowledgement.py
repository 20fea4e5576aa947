"""Events whose broker expects an acknowledgement: when they are acknowledged, and that they are once."""

from __future__ import annotations

from time import monotonic
from typing import cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from django_anyio_channels import Channel, Event, InMemoryChannelLayer, ListenerClosed, Subscriber
from django_anyio_channels.core.notifier import waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from tests.support.acknowledging import Acknowledgement
from tests.support.scripted import TIME_LIMIT, ScriptedLayer

SERIALIZER = MessagePackSerializer()


def event(message: object, ack_handle: Acknowledgement | None) -> Event[bytes]:
    return Event("room", SERIALIZER.encode(message), ack_handle=ack_handle)


def mailbox(*, capacity: int = 10, expiry: float | None = 60.0, manual_ack: bool = False) -> Subscriber:
    return Subscriber(
        "room",
        capacity=capacity,
        expiry=expiry,
        decode=SERIALIZER.decode,
        new_waiter=waiter_type(),
        stats=DeliveryStats(),
        manual_ack=manual_ack,
    )


@pytest.fixture
def ack_handle() -> Acknowledgement:
    return Acknowledgement()


@pytest.mark.anyio
async def test_a_taken_event_is_acknowledged(ack_handle: Acknowledgement) -> None:
    layer = ScriptedLayer()
    async with Channel(layer) as channel, channel.subscribe("room") as subscriber:
        layer.play(event("taken", ack_handle), event("second", None))
        with anyio.fail_after(TIME_LIMIT):
            while len(subscriber) < 2:
                await checkpoint()
        assert ack_handle.holders == 1, "one mailbox holds it, the hub does not any more"
        taken = await subscriber.receive()
        assert ack_handle.acknowledged
        await taken.ack()
        assert ack_handle.acknowledged


@pytest.mark.anyio
async def test_with_manual_acknowledgement_the_reader_acknowledges(ack_handle: Acknowledgement) -> None:
    layer = ScriptedLayer()
    async with Channel(layer) as channel, channel.subscribe("room", ack="manual") as subscriber:
        layer.play(event("job", ack_handle))
        with anyio.fail_after(TIME_LIMIT):
            taken = await subscriber.receive()
        assert not ack_handle.acknowledged
        await taken.ack()
        assert ack_handle.acknowledged
        await taken.ack()
        assert ack_handle.holders == 0


@pytest.mark.anyio
async def test_an_event_is_acknowledged_when_the_last_of_its_readers_has_it(ack_handle: Acknowledgement) -> None:
    layer = ScriptedLayer()
    async with (
        Channel(layer) as channel,
        channel.subscribe("room") as first,
        channel.subscribe("room", ack="manual") as second,
    ):
        layer.play(event("both", ack_handle))
        with anyio.fail_after(TIME_LIMIT):
            await first.receive()
            assert not ack_handle.acknowledged
            taken = await second.receive()
        assert not ack_handle.acknowledged
        taken.ack()
        assert ack_handle.acknowledged


@pytest.mark.anyio
async def test_an_event_without_a_subscriber_is_acknowledged(ack_handle: Acknowledgement) -> None:
    layer = ScriptedLayer()
    async with Channel(layer) as channel, channel.subscribe("another room") as subscriber:
        layer.play(event("unwanted", ack_handle), Event("another room", SERIALIZER.encode("next")))
        with anyio.fail_after(TIME_LIMIT):
            await subscriber.receive()
        assert ack_handle.acknowledged


@pytest.mark.anyio
async def test_leaving_acknowledges_unread_events(ack_handle: Acknowledgement) -> None:
    layer = ScriptedLayer()
    async with Channel(layer) as channel:
        async with channel.subscribe("room") as subscriber:
            layer.play(event("unread", ack_handle))
            with anyio.fail_after(TIME_LIMIT):
                while not len(subscriber):
                    await checkpoint()
            assert not ack_handle.acknowledged
        assert ack_handle.acknowledged


@pytest.mark.anyio
async def test_a_full_mailbox_does_not_retain_what_it_drops(ack_handle: Acknowledgement) -> None:
    subscriber = mailbox(capacity=1, manual_ack=True)
    subscriber.put((monotonic(), event("kept", Acknowledgement())))
    subscriber.put((monotonic(), event("dropped", ack_handle)))
    assert ack_handle.holders == 1


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["receive_nowait", "drop_expired"])
async def test_an_expired_event_is_acknowledged(ack_handle: Acknowledgement, how: str) -> None:
    subscriber = mailbox(expiry=60.0)
    subscriber.put((monotonic() - 61.0, event("late", ack_handle)))
    assert ack_handle.holders == 2
    if how == "receive_nowait":
        assert subscriber.receive_nowait() is None
    else:
        subscriber.drop_expired(monotonic())
    assert ack_handle.holders == 1


@pytest.mark.anyio
async def test_an_undecodable_event_is_acknowledged(ack_handle: Acknowledgement) -> None:
    subscriber = mailbox(manual_ack=True)
    subscriber.put((monotonic(), Event("room", b"\xc1", ack_handle=ack_handle)))
    assert subscriber.receive_nowait() is None
    assert ack_handle.holders == 1


@pytest.mark.anyio
async def test_awaiting_raises_when_the_acknowledgement_cannot_be_sent() -> None:
    subscriber = mailbox(manual_ack=True)
    subscriber.put((monotonic(), event("job", Acknowledgement(ListenerClosed("the connection is gone")))))
    taken = cast("Event[object]", subscriber.receive_nowait())
    with pytest.raises(ListenerClosed, match="the connection is gone"):
        await taken.ack()


@pytest.mark.anyio
async def test_without_an_ack_handle_acknowledging_does_nothing() -> None:
    async with Channel(InMemoryChannelLayer()) as channel, channel.subscribe("room", ack="manual") as subscriber:
        await channel.publish("room", "hello")
        with anyio.fail_after(TIME_LIMIT):
            taken = await subscriber.receive()
        assert await taken.ack() is None  # type: ignore[func-returns-value]
        taken.ack()


@pytest.mark.anyio
async def test_another_value_of_ack_is_refused() -> None:
    async with Channel(InMemoryChannelLayer()) as channel:
        with pytest.raises(ValueError, match=r"ack is 'never'; it must be 'auto' or 'manual'"):
            async with channel.subscribe("room", ack="never"):  # type: ignore[arg-type]
                raise AssertionError("it was accepted")
