"""What the in-memory broker keeps of each group, and the merge of live messages with it."""

from __future__ import annotations

import asyncio
from time import time_ns
from typing import Any

import pytest
from hypothesis import settings

from django_anyio_channels import Event, Gap, InMemoryBroker, InMemoryChannelLayer, NotSupported
from django_anyio_channels.brokers.common.entries import HistoryEntry, entry_id
from django_anyio_channels.brokers.memory import history
from django_anyio_channels.brokers.memory.history import HistoryLimits, HistoryStore
from tests.brokers.common.test_merge import PAGE, MergeMachine, ModelServer

DAY = 24 * 3600.0


class Clock:
    """`time.monotonic`, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(history, "monotonic", made)
    return made


def store(length: int = 10, age: float = 60.0, max_bytes: int = 1000) -> HistoryStore:
    made = HistoryStore()
    made.configure(HistoryLimits(length, age, max_bytes))
    return made


def kept(store: HistoryStore, group: str = "room") -> list[bytes]:
    return [entry.message for entry in store.latest(group, None)]


def test_small_messages_are_bounded_by_number_and_large_ones_by_bytes() -> None:
    bounded = store(length=10, max_bytes=1000)
    for number in range(12):
        bounded.append("room", b"%d" % number)
    assert kept(bounded) == [b"%d" % number for number in range(2, 12)]
    for _ in range(4):
        bounded.append("room", bytes(200))
    assert [len(message) for message in kept(bounded)] == [200, 200, 200], "and what came before the first one is gone"
    bounded.append("room", bytes(5000))
    assert [len(message) for message in kept(bounded)] == [5000]
    for number in range(12):
        bounded.append("room", b"%d" % number)
    bounded.append("room", bytes(200))
    assert len(kept(bounded)) == 10, "a large message that was dropped for its age in numbers does not count any more"


def test_what_is_too_old_is_swept_away_when_other_groups_are_published_to(clock: Clock) -> None:
    aging = store(age=60.0)
    aging.append("room", b"old")
    position = aging.get("room").position
    clock.now += 61
    aging.append("hall", b"new")
    assert aging._groups["room"] is not None
    assert not aging._groups["room"].messages
    assert aging.page("room", position).last == position, "its position is known for a day more"
    clock.now += 60 + DAY + 1
    aging.append("hall", b"new")
    assert set(aging._groups) == {"hall"}
    assert aging.page("room", position).last == b"00000000-0-0"


def test_a_disabled_group_stays_disabled() -> None:
    bounded = store()
    bounded.disable("news")
    assert bounded.append("news", b"1").position is None
    assert bounded.get("news").position != bounded.get("news").position, "nothing is remembered"
    assert not bounded.keeps("news")
    bounded.clear()
    assert bounded.append("news", b"2").position is None
    assert kept(bounded, "news") == []


def test_layers_of_one_broker_keep_one_history() -> None:
    broker = InMemoryBroker()
    InMemoryChannelLayer(broker=broker, history_length=5)
    InMemoryChannelLayer(broker=broker, history_length=5)
    for options in ({}, {"history_length": 6}, {"history_length": 5, "history_age": 1.0}):
        given: dict[str, Any] = options
        with pytest.raises(ValueError, match="keep one history: give them the same history_length, history_age and"):
            InMemoryChannelLayer(broker=broker, **given)


def test_without_a_history_nothing_can_be_read_or_compared() -> None:
    for call in (
        InMemoryChannelLayer().position("room"),
        InMemoryChannelLayer().join("room", "workers"),
        InMemoryChannelLayer().history("room", since=None, limit=None),
    ):
        with pytest.raises(NotSupported, match="keeps no history unless it is asked to: set history_length"):
            asyncio.run(call)
    with pytest.raises(NotSupported, match="keeps no history unless it is asked to: set history_length"):
        InMemoryChannelLayer().is_after("01234567-0-1", "01234567-0-1")


def test_a_gap_that_was_not_read_is_reported_again() -> None:
    async def main() -> list[tuple[type, bytes]]:
        broker = InMemoryBroker()
        layer = InMemoryChannelLayer(broker=broker, history_length=2)
        await layer.connect()
        await layer.subscribe("room")
        for number in (5, 1):
            for _ in range(number):
                await layer.publish("room", b"missed")
            [inbox] = broker._topics["room"]
            inbox.open = False
            broker._cut_off(inbox)
            await layer.disconnect()
            for _ in range(5):
                layer.publish_blocking("room", b"missed")
            await layer.connect()
            await layer.subscribe("room")
            assert layer.subscriptions_restored()
        await layer.publish("room", b"live")
        return [(type(event), event.message) for event in [await layer.next_published() for _ in range(2)]]

    assert asyncio.run(main()) == [(Gap, b""), (Event, b"live")]


# ---- the merge -----------------------------------------------------------------------------------------------------


class StoreServer(ModelServer):
    """A server whose histories are those of the in-memory broker."""

    def __init__(self) -> None:
        self.store = store(length=1000, age=1e9, max_bytes=10**9)
        self.time = self.clock = 0

    @property
    def epoch(self) -> int:  # type: ignore[override]
        return int(self.store.get("room").prefix[:8], 16)

    @property
    def last(self) -> bytes:
        return self.store.page("room", b"").last

    def publish(self, number: int, time: int) -> HistoryEntry:
        previous_id = entry_id(self.store.get("room").position)
        event = self.store.append("room", b"%d" % number)
        return HistoryEntry((event.position or "").encode(), previous_id, event.message)

    def forget(self, epoch: int) -> None:
        self.store.clear()
        before = time_ns() // 1_000_000
        while time_ns() // 1_000_000 == before:
            """Starting again takes longer than a millisecond."""

    def trim(self, left: int) -> None:
        room = self.store.get("room")
        while len(room.messages) > left:
            room.drop_older(room.times[0] + 1e-9)

    def page(self, reached: bytes) -> tuple[bytes, list[HistoryEntry]]:
        last, entries = self.store.page("room", reached)
        return last, entries[:PAGE]


class StoreMachine(MergeMachine):
    """Live entries and the in-memory broker's history, made one sequence."""

    server_type = StoreServer

    def the_server_loses_its_tail(self, count: int, missed: int) -> None:
        """No rule: memory that is lost is lost whole."""


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
