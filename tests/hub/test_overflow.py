"""What happens to the events for a full mailbox, if newer ones are not to be dropped."""

from __future__ import annotations

from time import monotonic
from typing import Any

import anyio
import pytest

from django_anyio_channels import Channel, Event, InMemoryChannelLayer, InvalidOption, SubscriberFull
from django_anyio_channels.core.notifier import waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.hub.overflow import Close, DropOldest, Latest, LatestMailbox, ordered, read_overflow
from django_anyio_channels.hub.subscriber import Overflow, Subscriber
from tests.support.acknowledging import Acknowledgement
from tests.support.scripted import TIME_LIMIT

pytestmark = pytest.mark.anyio

SERIALIZER = MessagePackSerializer()
SMALL, LARGE = "x" * 10, "x" * 900
LATEST = {"policy": "latest", "key": "symbol"}


def make(
    overflow: Overflow, *, capacity: int = 3, mailbox_bytes: int = 10**6, expiry: float | None = None
) -> Subscriber:
    return overflow.mailbox_class(
        "room",
        capacity=capacity,
        expiry=expiry,
        decode=SERIALIZER.decode,
        new_waiter=waiter_type(),
        stats=DeliveryStats(mailbox_bytes),
        overflow=overflow,
    )


def event(message: object) -> Event[bytes]:
    return Event("g", SERIALIZER.encode(message))


def put(mailbox: Subscriber, *messages: object, at: float | None = None) -> None:
    for message in messages:
        mailbox.put((monotonic() if at is None else at, event(message)))


def read(mailbox: Subscriber) -> list[Any]:
    found = []
    while (each := mailbox.receive_nowait()) is not None:
        found.append(each.message)
    return found


def price(symbol: object, number: int, **more: object) -> dict[str, object]:
    return {"type": "price", "symbol": symbol, "is": number, **more}


def counts(mailbox: Subscriber) -> tuple[int, int, int, int]:
    stats = mailbox.stats
    return stats.dropped, stats.dropped_bytes, stats.replaced, stats.closed


# ---- drop_oldest ----------------------------------------------------------------------------------------------------


async def test_the_oldest_events_make_room(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = make(DropOldest())
    put(mailbox, *range(10))
    assert counts(mailbox) == (7, 0, 0, 0)
    assert read(mailbox) == [7, 8, 9]
    assert mailbox.dropped == 7
    assert [each.getMessage().partition("; dropping")[0] for each in caplog.records] == [
        "room is full (capacity 3)",
        "room takes messages again; 7 were dropped",
    ]


@pytest.mark.parametrize("in_front", [0, 1, 2])
async def test_bytes_are_made_room_for_and_accounted(in_front: int) -> None:
    mailbox = make(DropOldest(), capacity=100, mailbox_bytes=2000)
    mailbox.put_in_front([(monotonic(), event(f"front {number}")) for number in range(in_front)])
    for number in range(20):
        put(mailbox, [number, LARGE])
    # The first event of a mailbox does not count; it is one of those in front, if there are any.
    assert [each[0] for each in read(mailbox)[in_front:]] == [17, 18, 19][bool(in_front) :]
    assert counts(mailbox)[:2] == (18 if in_front else 17,) * 2
    assert mailbox.accounts is None
    put(mailbox, *range(50))
    assert read(mailbox) == list(range(50)), "all bytes are free again"


async def test_what_is_in_front_is_kept_and_an_event_that_cannot_fit_is_dropped() -> None:
    mailbox = make(DropOldest(), mailbox_bytes=100)
    mailbox.put_in_front([(monotonic(), event(number)) for number in (1, 2)])
    put(mailbox, 3, LARGE)
    assert read(mailbox) == [1, 2]
    assert counts(mailbox) == (2, 2, 0, 0)


async def test_dropped_events_are_acknowledged() -> None:
    mailbox = make(DropOldest(), capacity=1)
    handles = [Acknowledgement() for _ in range(3)]
    for handle in handles:
        mailbox.put((monotonic(), Event("g", SERIALIZER.encode(1), ack_handle=handle)))
        handle.release()
    assert [handle.acknowledged for handle in handles] == [True, True, False]


# ---- latest ---------------------------------------------------------------------------------------------------------


async def test_the_newest_of_each_key_waits_in_the_place_of_the_older_one() -> None:
    mailbox = make(Latest("symbol"))
    put(mailbox, *(price(symbol, number) for number in range(100) for symbol in "abc"))
    assert read(mailbox) == [price(symbol, 99) for symbol in "abc"]
    assert counts(mailbox) == (0, 0, 297, 0)
    put(mailbox, price("a", 1), price("b", 2))
    assert mailbox.receive_nowait() == Event("g", price("a", 1))
    put(mailbox, price("a", 3), price("b", 4), {**price("b", 5), "type": "volume"}, price("c", 6))
    assert read(mailbox) == [price("b", 4), price("a", 3), {**price("b", 5), "type": "volume"}]
    assert counts(mailbox) == (1, 0, 298, 0), "a fourth key has no room"
    put(mailbox, price("c", 7))
    assert read(mailbox) == [price("c", 7)]


async def test_what_has_no_key_waits_as_usual(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = make(Latest("symbol"), capacity=100)
    others = [{"type": "price"}, {"type": "price"}, ["a"], "a", price([1], 2), price([1], 3)]
    put(mailbox, *others)
    mailbox.put((monotonic(), Event("g", b"\xc1")))
    mailbox.put((monotonic(), event(price("a", 1))))
    mailbox.put((monotonic(), event(price("a", 2))), force=True)
    assert read(mailbox) == [*others, price("a", 1), price("a", 2)]
    assert mailbox.stats.undecodable == 1


async def test_an_event_is_decoded_once_for_all_mailboxes() -> None:
    decoded: list[bytes] = []

    def decode(payload: bytes) -> object:
        decoded.append(payload)
        return SERIALIZER.decode(payload)

    policy = Latest("symbol")
    mailboxes = [make(policy) for _ in range(5)]
    entry = monotonic(), event(price("a", 1))
    for mailbox in mailboxes:
        mailbox.decode = decode
        mailbox.put(entry)
    assert len(decoded) == 1


async def test_an_event_that_is_too_large_for_its_place_is_put_where_there_is_room() -> None:
    mailbox = make(Latest("symbol"), capacity=10, mailbox_bytes=1000)
    put(mailbox, price("a", 1), price("b", 1), price("c", 1))
    put(mailbox, price("b", 2, text=LARGE))
    assert read(mailbox) == [price("a", 1), price("c", 1), price("b", 2, text=LARGE)]
    put(mailbox, price("a", 1), price("b", 1, text=LARGE), price("c", 1))
    put(mailbox, price("b", 2, text=SMALL), price("a", 2), price("c", 2, text=LARGE))
    assert read(mailbox) == [price("a", 2), price("b", 2, text=SMALL), price("c", 2, text=LARGE)]
    put(mailbox, price("a", 1), price("b", 1), price("b", 2, text=LARGE), price("c", 1, text=LARGE))
    put(mailbox, price("a", 3, text=LARGE))
    assert read(mailbox) == [price("b", 2, text=LARGE), price("a", 3, text=LARGE)], "the first one needs no room"
    assert counts(mailbox)[:2] == (1, 1)
    assert mailbox.accounts is None


async def test_what_was_replaced_is_acknowledged() -> None:
    mailbox = make(Latest("symbol"))
    handles = [Acknowledgement() for _ in range(3)]
    for handle in handles:
        mailbox.put((monotonic(), Event("g", SERIALIZER.encode(price("a", 1)), ack_handle=handle)))
        handle.release()
    assert [handle.acknowledged for handle in handles] == [True, True, False]


async def test_a_mailbox_keeps_no_events_that_do_not_wait() -> None:
    mailbox = make(Latest("symbol"), capacity=1000, expiry=10.0)
    assert isinstance(mailbox, LatestMailbox)
    put(mailbox, *(price(number, 1) for number in range(100)), at=0.0)
    mailbox.drop_expired(5.0)
    assert (len(mailbox), len(mailbox._waiting)) == (100, 100)
    mailbox.drop_expired(11.0)
    assert (len(mailbox), len(mailbox._waiting)) == (0, 0)
    put(mailbox, *(price(number, 1) for number in range(100)))
    for left in range(99, -1, -1):
        assert mailbox.receive_nowait() is not None
        assert len(mailbox._waiting) <= 2 * left
    put(mailbox, price(1, 1))
    mailbox.clear()
    assert not mailbox._waiting


async def test_a_key_whose_event_was_read_is_put_anew() -> None:
    mailbox = make(Latest("symbol"))
    put(mailbox, price("a", 1), price("b", 1))
    assert mailbox.receive_nowait() == Event("g", price("a", 1))
    put(mailbox, price("a", 2))
    assert read(mailbox) == [price("b", 1), price("a", 2)]


async def test_without_its_policy_a_mailbox_replaces_nothing() -> None:
    mailbox = make(Latest("symbol"))
    mailbox.overflow = ordered(mailbox.overflow)
    put(mailbox, *(price("a", number) for number in range(5)))
    assert read(mailbox) == [price("a", number) for number in range(3)]


# ---- close ----------------------------------------------------------------------------------------------------------


async def test_a_full_mailbox_is_closed_once_until_half_of_it_is_free() -> None:
    closed: list[Subscriber] = []
    policy = Close(closed.append, Subscriber)
    assert ordered(policy) is policy
    mailbox = make(policy)
    put(mailbox, *range(10))
    assert closed == [mailbox]
    assert read(mailbox) == [0, 1, 2]
    put(mailbox, *range(10))
    assert closed == [mailbox, mailbox]
    assert counts(mailbox) == (14, 0, 0, 2)


# ---- Channel.subscribe ----------------------------------------------------------------------------------------------


async def test_subscriptions_choose() -> None:
    with anyio.fail_after(TIME_LIMIT):
        async with (
            Channel(InMemoryChannelLayer(), capacity=3) as channel,
            channel.subscribe("prices") as newest,
            channel.subscribe("prices", overflow="drop_oldest") as oldest,
            channel.subscribe("prices", overflow=LATEST) as latest,
            channel.subscribe("prices", overflow="close") as closing,
            channel.subscribe("end") as end,
        ):
            for number in range(5):
                for symbol in "ab":
                    await channel.publish("prices", price(symbol, number))
            await channel.publish("end", None)
            await end.receive()
            first = [price("a", 0), price("b", 0), price("a", 1)]
            assert read(newest) == first
            assert read(oldest) == [price("b", 3), price("a", 4), price("b", 4)]
            assert read(latest) == [price("a", 4), price("b", 4)]
            seen = []
            with pytest.raises(SubscriberFull, match="prices was read too slowly, and closed when it was full"):
                async for each in closing:
                    seen.append(each.message)
            assert seen == first
            await channel.publish("prices", price("a", 5))
            with pytest.raises(SubscriberFull):
                await closing.receive()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("drop_olddest", "overflow is 'drop_olddest'. Did you mean 'drop_oldest'? It must be 'drop_newest', "),
        (
            None,
            "overflow is of type NoneType. It must be 'drop_newest', 'drop_oldest', 'close', or {'policy': 'latest'",
        ),
        ({"key": "symbol"}, "overflow is of type NoneType. It must be"),
        (("latest", "symbol", "x"), "overflow is of type tuple"),
        ("latest", "overflow 'latest' has a wrong 'key'. 'latest' has the name of a field"),
        (("latest", ""), "overflow 'latest' has a wrong 'key'"),
        ({"policy": "latest", "key": 7}, "overflow 'latest' has a wrong 'key'"),
        ({"policy": "close", "key": "x"}, "overflow 'close' has a wrong 'key'"),
        (
            {"policy": "latest", "key": "x", "code": 1},
            "overflow 'latest' has a wrong 'key'. 'latest' has the name of a f",
        ),
    ],
)
async def test_wrong_policies_are_refused(value: object, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        read_overflow(value)
    assert str(caught.value).startswith(message)


async def test_a_subscription_since_a_position_keeps_its_order() -> None:
    async with Channel(InMemoryChannelLayer()) as channel:
        with pytest.raises(InvalidOption, match="overflow 'latest' cannot be used with since"):
            async with channel.subscribe("prices", since="1", overflow=("latest", "symbol")):
                pass
