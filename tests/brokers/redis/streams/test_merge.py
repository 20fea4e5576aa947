"""The merge of live messages and history against a model of a server, whatever happens between the two."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from django_anyio_channels.brokers.redis.streams.entries import (
    BEGINNING,
    HistoryEntry,
    entry_id,
    epoch_of,
    match_entry,
    sort_key,
)
from django_anyio_channels.brokers.redis.streams.merge import StreamMerger

PAGE = 2
GAP = "gap"


def place(epoch: int, time: int, number: int) -> bytes:
    return b"%08x-%d-%d" % (epoch, time, number)


class ModelServer:
    """One group on a server: what the scripts do, in Python."""

    def __init__(self) -> None:
        self.epoch = 1
        self.time = 0
        self.number = 0
        self.clock = 0
        self.stream: list[HistoryEntry] = []

    @property
    def last(self) -> bytes:
        return place(self.epoch, self.time, self.number)

    def publish(self, number: int, time: int) -> HistoryEntry:
        previous_id, now = entry_id(self.last), max(self.clock, time)
        self.time, self.number = (now, 0) if now > self.time else (self.time, self.number + 1)
        entry = HistoryEntry(self.last, previous_id, b"%d" % number)
        self.stream.append(entry)
        return entry

    def forget(self, epoch: int) -> None:
        self.epoch, self.time, self.number, self.stream = epoch, 0, 0, []

    def page(self, reached: bytes) -> tuple[bytes, list[HistoryEntry]]:
        if reached in (b"", self.last) or epoch_of(reached) != epoch_of(self.last):
            return self.last, []

        return self.last, [entry for entry in self.stream if sort_key(entry.position) > sort_key(reached)][:PAGE]


class MergeMachine(RuleBasedStateMachine):
    """A node that is connected and cut off while the server publishes, trims and forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer()
        self.merger = StreamMerger()
        self.connected = True
        self.wire: list[HistoryEntry] = []
        self.passed: list[HistoryEntry] = []
        self.answer: tuple[bytes, list[HistoryEntry]] | None = None
        self.published = 0
        self.seen: list[int | str] = []
        self.lost_by_server: set[int] = set()
        self.epochs = 1
        self.history_was_cut = False
        self.entries_were_lost = False
        self.come_to_rest()

    # ---- the world ----------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 4), pause=st.integers(0, 3))
    def publish(self, count: int, pause: int) -> None:
        for _ in range(count):
            self.published += 1
            entry = self.server.publish(self.published, self.published // 3 + pause)
            if self.connected:
                self.wire.append(entry)

    @rule(left=st.integers(0, 3))
    def trim(self, left: int) -> None:
        self.history_was_cut = True
        del self.server.stream[: max(0, len(self.server.stream) - left)]

    @rule(missed=st.integers(0, 4), left=st.none() | st.integers(0, 2))
    def the_connection_breaks(self, missed: int, left: int | None) -> None:
        """``missed`` are published meanwhile, and ``left`` is how long the history is afterwards."""
        self.disconnect()
        self.publish(missed, 0)
        if left is not None:
            self.trim(left)
        self.connect()

    @rule(missed=st.integers(0, 2))
    def the_server_loses_its_memory(self, missed: int) -> None:
        self.disconnect()
        self.forget()
        self.publish(missed, 0)
        self.connect()

    @rule(count=st.integers(1, 3), missed=st.integers(0, 4))
    def the_server_loses_its_tail(self, count: int, missed: int) -> None:
        self.disconnect()
        self.history_was_cut = True
        self.lost_by_server.update(int(entry.message) for entry in self.server.stream[-count:])
        del self.server.stream[-count:]
        self.server.clock = self.server.time + 1  # whoever takes over needs longer than a millisecond
        if self.server.stream:
            self.server.time, self.server.number = sort_key(self.server.stream[-1].position)
        else:
            self.forget()
        self.publish(missed, 0)
        self.connect()

    @precondition(lambda self: self.in_step())
    @rule()
    def somebody_deletes_the_keys(self) -> None:
        """The connection holds, and everything has arrived: nothing is missed."""
        self.forget()

    def disconnect(self) -> None:
        self.connected = False
        self.wire.clear()
        self.passed.clear()
        self.answer = None

    def connect(self) -> None:
        self.connected = True
        self.merger.restart()

    def forget(self) -> None:
        self.history_was_cut = True
        self.epochs += 1
        self.server.forget(self.epochs)

    def in_step(self) -> bool:
        return not self.wire and not self.merger.catching_up and self.merger.last == self.server.last

    def come_to_rest(self) -> None:
        while self.wire or self.merger.catching_up:
            self.live_entries_come(9)
            if self.merger.catching_up:
                self.the_server_answers()
                self.the_answer_comes()

    # ---- the wire -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.wire)
    @rule(count=st.integers(1, 9))
    def live_entries_come(self, count: int) -> None:
        for entry in self.wire[:count]:
            self.passed.append(entry)
            if self.merger.add_live(entry):
                self.seen.append(int(entry.message))
        del self.wire[:count]

    @precondition(lambda self: len({entry.position[:8] for entry in self.wire}) == 1)
    @rule(index=st.integers(0, 3))
    def a_live_entry_is_late_or_lost(self, index: int) -> None:
        entry = self.wire.pop(index % len(self.wire))
        if index > 1:
            self.wire.append(entry)
        else:
            self.entries_were_lost = True

    @precondition(lambda self: self.passed_in_this_epoch())
    @rule(index=st.integers(0, 3))
    def a_live_entry_comes_again(self, index: int) -> None:
        passed = self.passed_in_this_epoch()
        self.wire.insert(index, passed[-1 - index % len(passed)])

    def passed_in_this_epoch(self) -> list[HistoryEntry]:
        return [entry for entry in self.passed if epoch_of(entry.position) == epoch_of(self.server.last)]

    @precondition(lambda self: self.merger.catching_up)
    @rule()
    def the_server_answers(self) -> None:
        self.answer = self.answer or self.server.page(self.merger.reached)

    @precondition(lambda self: self.answer is not None)
    @rule()
    def the_answer_comes(self) -> None:
        assert self.answer is not None
        last, entries = self.answer
        self.answer = None
        missed, found = self.merger.add_history(last, entries)
        if missed:
            self.seen.append(GAP)
        self.seen.extend(int(entry.message) for entry in found)

    # ---- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def each_once_and_in_order(self) -> None:
        numbers = [number for number in self.seen if isinstance(number, int)]
        assert numbers == sorted(set(numbers))

    @invariant()
    def no_hole_without_a_report(self) -> None:
        for former, latter in zip(self.seen, self.seen[1:], strict=False):
            if isinstance(former, int) and isinstance(latter, int):
                assert set(range(former + 1, latter)) <= self.lost_by_server

    @invariant()
    def no_report_without_a_reason(self) -> None:
        assert self.history_was_cut or GAP not in self.seen

    def teardown(self) -> None:
        """When all is quiet and one more message has been published, the node is where the server is."""
        self.come_to_rest()
        assert self.entries_were_lost or entry_id(self.server.last) == BEGINNING or self.merger.last == self.server.last
        # A gap may take the first one with it.
        for _ in range(3):
            self.come_to_rest()
            self.publish(1, 0)
        self.come_to_rest()
        assert self.merger.last == self.server.last
        assert self.seen[-1] == self.published
        self.each_once_and_in_order()
        self.no_hole_without_a_report()
        self.no_report_without_a_reason()


TestMerge = MergeMachine.TestCase
TestMerge.settings = settings(max_examples=200, stateful_step_count=25)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"no entry",
        b"0123456-1-1 0-0\nepoch too short",
        b"01234567-1 0-0\n",
        b"01234567-1-1 0-0",
        b"01234567-1-1 0\n",
        b"0123456X-1-1 0-0\n",
        b"01234567-%d-1 0-0\nnumber too long" % 10**20,
    ],
)
def test_what_is_no_entry(data: bytes) -> None:
    assert match_entry(data) is None


def test_an_entry() -> None:
    match = match_entry(b"01234567-1700000000000-42 1600000000000-41\nmessage\nwith lines\0")
    assert match is not None
    entry = HistoryEntry(*match.groups())
    assert entry == HistoryEntry(b"01234567-1700000000000-42", b"1600000000000-41", b"message\nwith lines\0")
    assert epoch_of(entry.position) == b"01234567"
    assert entry_id(entry.position) == b"1700000000000-42"


def test_the_first_entry_of_a_fresh_group() -> None:
    merger = StreamMerger()
    assert merger.add_history(place(1, 0, 0), []) == (False, [])
    assert merger.add_live(HistoryEntry(place(1, 9, 0), BEGINNING, b"first"))
    assert not merger.catching_up


def test_an_entry_that_nobody_published_has_the_history_read_twice_and_no_more() -> None:
    merger = StreamMerger()
    merger.add_history(place(1, 7, 0), [])
    forged = HistoryEntry(place(1, 9_000, 5), b"9000-4", b"forged")
    assert not merger.add_live(forged)
    assert merger.add_history(place(1, 7, 0), []) == (False, [])
    assert merger.catching_up
    assert merger.add_history(place(1, 7, 0), []) == (False, [])
    assert not merger.catching_up
    following = HistoryEntry(place(1, 8, 0), entry_id(place(1, 7, 0)), b"real")
    assert merger.add_live(following)
