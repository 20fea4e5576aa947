"""The mailbox: bounded, expiring, safe to cancel, and counting what it dropped."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from django_anyio_channels import Event, ListenerClosed, Subscriber
from django_anyio_channels.core.notifier import Waiter, waiter_type
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.core.stats import DeliveryStats
from tests.support.scripted import TIME_LIMIT, Everywhere, cancelled_at_every_await, cancelled_in_every_turn

SERIALIZER = MessagePackSerializer()


def make(
    *,
    capacity: int = 100,
    expiry: float | None = 60.0,
    stats: DeliveryStats | None = None,
    new_waiter: Callable[[], Waiter] | None = None,
) -> Subscriber:
    return Subscriber(
        "room",
        capacity=capacity,
        expiry=expiry,
        decode=SERIALIZER.decode,
        new_waiter=new_waiter or waiter_type(),
        stats=stats or DeliveryStats(),
    )


def put(subscriber: Subscriber, *messages: object, at: float | None = None) -> None:
    for message in messages:
        subscriber.put((monotonic() if at is None else at, Event("g", SERIALIZER.encode(message))))


async def received(subscriber: Subscriber, count: int) -> list[object]:
    with anyio.fail_after(TIME_LIMIT):
        return [(await subscriber.receive()).message for _ in range(count)]


# ---- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_events_come_in_the_order_of_their_arrival() -> None:
    subscriber = make()
    put(subscriber, *range(50))
    assert len(subscriber) == 50
    assert await received(subscriber, 50) == list(range(50))
    assert len(subscriber) == 0


@pytest.mark.anyio
async def test_a_waiting_reader_is_woken() -> None:
    subscriber = make()
    async with anyio.create_task_group() as tasks:
        seen: list[object] = []

        async def read() -> None:
            seen.extend(await received(subscriber, 1))

        assert not subscriber.has_waiters
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert subscriber.has_waiters
        put(subscriber, "wake up")
    assert seen == ["wake up"]
    assert not subscriber.has_waiters


@pytest.mark.anyio
async def test_an_event_keeps_its_group_and_subscription() -> None:
    subscriber = make()
    subscriber.put((monotonic(), Event("room.1", SERIALIZER.encode("x"), subscription="room.*")))
    assert await subscriber.receive() == Event("room.1", "x", subscription="room.*")


@pytest.mark.anyio
async def test_each_event_goes_to_one_of_several_readers() -> None:
    subscriber = make(capacity=1000)
    seen: list[Any] = []
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                async for event in subscriber:
                    seen.append(event.message)
                    await checkpoint()

            for _ in range(5):
                tasks.start_soon(read)
            for number in range(100):
                put(subscriber, number)
                if number % 3 == 0:
                    await checkpoint()
            subscriber.close()
    assert sorted(seen) == list(range(100))


@pytest.mark.anyio
async def test_a_closed_mailbox_is_read_to_its_end() -> None:
    subscriber = make()
    put(subscriber, 1, 2)
    subscriber.close()
    assert [event.message async for event in subscriber] == [1, 2]
    with pytest.raises(ListenerClosed, match="room is closed"):
        await subscriber.receive()


@pytest.mark.anyio
async def test_cleared_events_are_gone_and_not_counted_as_lost() -> None:
    subscriber = make(capacity=2)
    put(subscriber, 1, 2)
    subscriber.clear()
    assert len(subscriber) == 0
    put(subscriber, 3, 4)
    assert await received(subscriber, 2) == [3, 4]
    assert (subscriber.dropped, subscriber.expired) == (0, 0)


@pytest.mark.anyio
async def test_a_foreign_payload_is_skipped_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    stats = DeliveryStats()
    subscriber = make(stats=stats)
    subscriber.put((monotonic(), Event("g", b"\xc1")))
    put(subscriber, "fine")
    assert await received(subscriber, 1) == ["fine"]
    assert stats.undecodable == 1
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "django_anyio_channels")
    assert "Dropped a message for room" in record.getMessage()


# ---- cancelling --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("everywhere", [cancelled_at_every_await, cancelled_in_every_turn])
async def test_a_cancelled_reader_loses_nothing(everywhere: Everywhere) -> None:
    subscriber = make()
    sent, seen = 0, []

    async def scenario() -> None:
        nonlocal sent
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                seen.append((await subscriber.receive()).message)

            tasks.start_soon(read)
            tasks.start_soon(read)
            await checkpoint()
            sent += 2
            put(subscriber, sent - 1, sent)

    async def check() -> None:
        while len(seen) < sent:
            seen.extend(await received(subscriber, 1))
        assert sorted(seen) == list(range(1, sent + 1))
        assert not subscriber.has_waiters

    with anyio.fail_after(TIME_LIMIT):
        assert await everywhere(scenario, check) > 1


@pytest.mark.anyio
async def test_polling_with_a_time_limit_loses_nothing_and_keeps_the_order() -> None:
    subscriber = make(capacity=1000)
    seen: list[object] = []
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                for number in range(300):
                    put(subscriber, number)
                    for _ in range(number % 5):
                        await checkpoint()

            tasks.start_soon(write)
            polls = 0
            while len(seen) < 300:
                polls += 1
                with anyio.move_on_after(0.0003 * (polls % 3)):
                    seen.append((await subscriber.receive()).message)
                await checkpoint()
    assert seen == list(range(300))


# ---- capacity ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_full_mailbox_drops_the_newest_and_counts_them() -> None:
    stats = DeliveryStats()
    subscriber, other = make(capacity=3, stats=stats), make(capacity=3, stats=stats)
    put(subscriber, *range(10))
    put(other, *range(4))
    assert await received(subscriber, 3) == [0, 1, 2]
    assert (subscriber.dropped, other.dropped, stats.dropped) == (7, 1, 8)
    put(subscriber, "room again")
    assert await received(subscriber, 1) == ["room again"]


@pytest.mark.anyio
async def test_one_line_when_it_is_full_and_one_when_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    subscriber = make(capacity=4)
    put(subscriber, *range(1000))
    assert [record.getMessage() for record in caplog.records] == [
        "room is full (capacity 4); dropping messages until it is read. Read faster, or raise the limit"
    ]
    caplog.clear()
    await received(subscriber, 1)
    put(subscriber, *range(5))
    assert caplog.records == [], "room for a moment is no news"
    await received(subscriber, 4)
    assert [record.getMessage() for record in caplog.records] == ["room takes messages again; 1000 were dropped"]
    caplog.clear()
    put(subscriber, *range(5))
    assert len(caplog.records) == 1, "full once more is logged once more"


@pytest.mark.anyio
async def test_many_full_mailboxes_log_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    stats = DeliveryStats()
    subscribers = [make(capacity=1, stats=stats) for _ in range(500)]
    for subscriber in subscribers:
        put(subscriber, 1, 2)
    assert stats.dropped == 500
    assert len(caplog.records) <= 20
    for subscriber in subscribers:
        await received(subscriber, 1)
    assert len(caplog.records) <= 40, "a mailbox that was not logged as full is not logged as having room"


@pytest.mark.anyio
async def test_bytes_are_bounded_beside_the_number_of_messages(caplog: pytest.LogCaptureFixture) -> None:
    subscriber = make(capacity=100, stats=DeliveryStats(mailbox_bytes=25_000))
    put(subscriber, b"a" * 50_000, *(b"b" * 10_000 for _ in range(4)), b"c")
    assert subscriber.dropped == 2, "the next one may have any size, and two wait behind it; a small one finds room"
    assert subscriber.stats.dropped_bytes == 2
    assert [record.getMessage() for record in caplog.records] == [
        "room is full (mailbox_bytes 25000); dropping messages until it is read. Read faster, or raise the limit"
    ]
    assert await received(subscriber, 2) == [b"a" * 50_000, b"b" * 10_000]
    assert "room takes messages again; 2 were dropped" in caplog.text
    put(subscriber, b"d" * 20_000, b"e" * 10_000)
    assert await received(subscriber, 3) == [b"b" * 10_000, b"c", b"d" * 20_000]
    assert subscriber.dropped == 3


@pytest.mark.anyio
async def test_what_is_put_in_front_does_not_count() -> None:
    subscriber = make(capacity=2, stats=DeliveryStats(mailbox_bytes=100))
    subscriber.put_in_front([])
    assert len(subscriber) == 0
    put(subscriber, 3)
    subscriber.put_in_front([(monotonic(), Event("g", SERIALIZER.encode(b"x" * 1000))) for _ in range(3)])
    put(subscriber, 4, 5)
    assert subscriber.dropped == 1
    assert len(await received(subscriber, 3)) == 3
    put(subscriber, 6)
    assert (await received(subscriber, 2), subscriber.dropped) == ([3, 4], 2), "no longer than it waits"
    put(subscriber, 7, 8, 9)
    assert await received(subscriber, 2) == [7, 8]


# ---- age ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_mailbox_says_when_its_oldest_event_arrived() -> None:
    subscriber = make(expiry=None)
    assert subscriber.oldest is None
    subscriber.put((5.0, Event("g", SERIALIZER.encode(1))))
    subscriber.put((6.0, Event("g", SERIALIZER.encode(2))))
    assert subscriber.oldest == 5.0
    await subscriber.receive()
    assert subscriber.oldest == 6.0
    await subscriber.receive()
    assert subscriber.oldest is None


class TakenMeanwhile(deque[Any]):
    """Its only event is taken between two looks at it."""

    def __bool__(self) -> bool:
        return True


@pytest.mark.anyio
async def test_another_thread_may_ask_for_the_oldest_event_while_it_is_taken() -> None:
    subscriber = make()
    subscriber._items = TakenMeanwhile()
    assert subscriber.oldest is None


# ---- expiry ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_event_that_waited_too_long_is_dropped_and_counted() -> None:
    stats = DeliveryStats()
    subscriber, now = make(expiry=60.0, stats=stats), monotonic()
    put(subscriber, "old", "old", at=now - 61)
    put(subscriber, "new", at=now - 59)
    assert await received(subscriber, 1) == ["new"]
    assert (subscriber.expired, stats.expired, subscriber.dropped) == (2, 2, 0)


@pytest.mark.anyio
async def test_without_an_expiry_events_wait_for_ever() -> None:
    subscriber = make(expiry=None)
    put(subscriber, "old", at=monotonic() - 1e9)
    subscriber.drop_expired(monotonic())
    assert await received(subscriber, 1) == ["old"]
    assert subscriber.expired == 0


@pytest.mark.anyio
async def test_expired_events_make_room() -> None:
    subscriber, now = make(capacity=2, expiry=60.0), monotonic()
    put(subscriber, "old", "old", at=now - 61)
    put(subscriber, 1, 2, 3, at=now)
    assert (subscriber.expired, subscriber.dropped) == (2, 1)
    assert await received(subscriber, 2) == [1, 2]


@pytest.mark.anyio
async def test_expired_events_can_be_dropped_without_a_reader() -> None:
    subscriber, now = make(expiry=60.0), monotonic()
    subscriber.drop_expired(now)
    put(subscriber, "old", at=now - 61)
    put(subscriber, "new", at=now)
    subscriber.drop_expired(now)
    assert (len(subscriber), subscriber.expired) == (1, 1)
    subscriber.drop_expired(now + 61)
    assert (len(subscriber), subscriber.expired) == (0, 2)


@pytest.mark.anyio
async def test_a_reader_that_finds_only_expired_events_goes_on_waiting() -> None:
    subscriber = make(expiry=60.0)
    put(subscriber, "old", at=monotonic() - 61)
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:

        async def read() -> None:
            seen.extend(await received(subscriber, 1))

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert subscriber.expired == 1
        put(subscriber, "new")
    assert seen == ["new"]


# ---- any order of events against a model -------------------------------------------------------------------------


class Ready:
    """A waiter that is never awaited."""

    def __await__(self) -> Generator[None, None, None]:
        raise AssertionError("there was something to read")
        yield

    def done(self) -> bool:
        return False

    def set_result(self, result: None, /) -> None:
        raise AssertionError("no task waits")


class MailboxMachine(RuleBasedStateMachine):
    """What is put is read in order, or counted as dropped or expired; never more waits than is allowed."""

    CAPACITY, EXPIRY, BYTES = 4, 10.0, 60

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.model: deque[tuple[float, int, int]] = deque()
        self.in_front = 0
        self.sent = self.read = self.cleared = 0
        self.stats = DeliveryStats(self.BYTES)
        self.subscriber = make(capacity=self.CAPACITY, expiry=self.EXPIRY, stats=self.stats, new_waiter=Ready)

    def expire(self) -> None:
        while self.model and self.model[0][0] < self.now - self.EXPIRY:
            self.take()

    def take(self) -> tuple[float, int, int]:
        self.in_front = max(0, self.in_front - 1)
        return self.model.popleft()

    def has_room(self, size: int) -> bool:
        waiting = list(self.model)[max(1, self.in_front) :]
        fits = not self.model or sum(each[2] for each in waiting) + size <= self.BYTES
        return fits and len(self.model) - self.in_front < self.CAPACITY

    @rule(seconds=st.floats(min_value=0, max_value=8))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(padding=st.sampled_from([0, 0, 20, 50, 200]))
    def put(self, padding: int) -> None:
        message = self.message(padding)
        size = len(SERIALIZER.encode(message))
        if not self.has_room(size):
            self.expire()
        if self.has_room(size):
            self.model.append((self.now, self.sent, size))
        put(self.subscriber, message, at=self.now)
        self.sent += 1

    @rule(padding=st.sampled_from([0, 50]), count=st.integers(0, 3))
    def put_in_front(self, padding: int, count: int) -> None:
        entries = []
        for _ in range(count):
            payload = SERIALIZER.encode(self.message(padding))
            entries.append((self.now, Event("g", payload)))
            self.model.insert(len(entries) - 1, (self.now, self.sent, len(payload)))
            self.sent += 1
        self.subscriber.put_in_front(entries)
        self.in_front += count

    def message(self, padding: int) -> list[object]:
        return [self.sent, b"x" * padding]

    @precondition(lambda self: any(each[0] >= self.now - self.EXPIRY for each in self.model))
    @rule()
    def receive(self) -> None:
        while self.model[0][0] < self.now - self.EXPIRY:
            self.take()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("django_anyio_channels.hub.subscriber.monotonic", lambda: self.now)
            with pytest.raises(StopIteration) as ended:
                self.subscriber.receive().send(None)
        assert ended.value.value.message[0] == self.take()[1]
        self.read += 1

    @rule()
    def sweep(self) -> None:
        self.subscriber.drop_expired(self.now)
        self.expire()

    @rule()
    def clear(self) -> None:
        self.cleared += len(self.model)
        self.model.clear()
        self.in_front = 0
        self.subscriber.clear()

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        subscriber = self.subscriber
        assert len(subscriber) == len(self.model) <= self.CAPACITY + self.in_front
        lost = subscriber.dropped + subscriber.expired
        assert self.sent == len(subscriber) + self.read + self.cleared + lost
        assert (self.stats.dropped, self.stats.expired) == (subscriber.dropped, subscriber.expired)


TestMailboxMachine = MailboxMachine.TestCase
TestMailboxMachine.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.anyio
async def test_an_event_that_is_put_back_is_the_next_again_whatever_the_capacity() -> None:
    subscriber = make(capacity=1)
    put(subscriber, 2)
    for message in (1, 0):
        subscriber.put_back((monotonic(), Event("g", SERIALIZER.encode(message))))
    assert await received(subscriber, 3) == [0, 1, 2]
    subscriber.put_back((monotonic(), Event("g", SERIALIZER.encode(3))))
    assert await received(subscriber, 1) == [3]


@pytest.mark.anyio
async def test_an_event_for_which_no_task_waits_is_announced() -> None:
    subscriber, announced = make(), list[Subscriber]()
    subscriber.on_unclaimed = announced.append
    put(subscriber, 1)
    assert announced == [subscriber]
    subscriber.put_back((monotonic(), Event("g", SERIALIZER.encode(0))))
    assert announced == 2 * [subscriber]
    assert await received(subscriber, 2) == [0, 1]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(received, subscriber, 1)
        await anyio.wait_all_tasks_blocked()
        put(subscriber, 2)
    assert announced == 2 * [subscriber], "a task waited for the last one"
