"""The merge of live messages and history against a model of a server, whatever happens between the two."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from django_anyio_channels.brokers.common.entries import (
    BEGINNING,
    NO_EPOCH,
    HistoryEntry,
    entry_id,
    epoch_of,
    match_entry,
    sort_key,
)
from django_anyio_channels.brokers.common.merge import HistoryMerger

PAGE = 2
GAP = "gap"
FORGED = b"-1"


def place(epoch: int, time: int, number: int) -> bytes:
    return b"%08x-%d-%d" % (epoch, time, number)


class ModelServer:
    """One group on a server: what the scripts do, in Python."""

    def __init__(self) -> None:
        self.epoch = 1
        self.time = 0
        self.number = 0
        self.clock = 0
        self.is_forgotten = True
        self.stream: list[HistoryEntry] = []

    @property
    def last(self) -> bytes:
        if self.is_forgotten:
            return b"%b-%b" % (NO_EPOCH, BEGINNING)
        return place(self.epoch, self.time, self.number)

    def publish(self, number: int, time: int) -> HistoryEntry:
        self.is_forgotten = False
        previous_id, now = entry_id(self.last), max(self.clock, time)
        self.time, self.number = (now, 0) if now > self.time else (self.time, self.number + 1)
        entry = HistoryEntry(self.last, previous_id, b"%d" % number)
        self.stream.append(entry)
        return entry

    def forget(self, epoch: int) -> None:
        self.epoch, self.time, self.number, self.stream = epoch, 0, 0, []
        self.is_forgotten = True

    def trim(self, left: int) -> None:
        del self.stream[: max(0, len(self.stream) - left)]

    def page(self, reached: bytes) -> tuple[bytes, list[HistoryEntry]]:
        if reached in (b"", self.last) or epoch_of(reached) != epoch_of(self.last):
            return self.last, []

        return self.last, [entry for entry in self.stream if sort_key(entry.position) > sort_key(reached)][:PAGE]


class MergeMachine(RuleBasedStateMachine):
    """A node that is connected and cut off while the server publishes, trims and forgets."""

    server_type: type[ModelServer] = ModelServer

    def __init__(self) -> None:
        super().__init__()
        self.server = self.server_type()
        self.merger = HistoryMerger()
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
        self.entries_were_forged = False
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
        self.server.trim(left)

    @rule(missed=st.integers(0, 4), left=st.none() | st.integers(0, 2))
    def the_connection_breaks(self, missed: int, left: int | None) -> None:
        """``missed`` are published meanwhile, and ``left`` is how long the history is afterwards."""
        self.disconnect()
        self.publish(missed, 0)
        if left is not None:
            self.trim(left)
        self.connect()

    @rule(missed=st.integers(0, 5))
    def the_server_loses_its_memory(self, missed: int) -> None:
        """What it is sent then, while the node is away, is all that it knows."""
        self.come_to_rest()
        gap = [] if epoch_of(self.merger.last) == NO_EPOCH else [GAP]
        self.disconnect()
        self.forget()
        first = self.published + 1
        self.publish(missed, self.clock_of_last() + 1)
        self.connect()
        self.come_to_rest()
        assert self.seen[len(self.seen) - missed - len(gap) :] == [*gap, *range(first, first + missed)]
        assert self.merger.last == self.server.last

    def clock_of_last(self) -> int:
        return max([sort_key(self.merger.last)[0], self.server.time])

    @rule(count=st.integers(1, 3), missed=st.integers(0, 4))
    def the_server_loses_its_tail(self, count: int, missed: int) -> None:
        self.disconnect()
        self.history_was_cut = True
        self.lost_by_server.update(int(entry.message) for entry in self.server.stream[-count:])
        del self.server.stream[-count:]
        # Whoever takes over needs longer than a millisecond.
        self.server.clock = max(self.server.clock, self.server.time) + 1
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

    @rule(ahead=st.integers(0, 9_000), continues=st.booleans(), other_epoch=st.booleans())
    def somebody_forges_an_entry(self, ahead: int, continues: bool, other_epoch: bool) -> None:
        self.entries_were_forged = True
        epoch = 0xFFFFFFFF if other_epoch else self.server.epoch
        previous_id = BEGINNING if other_epoch else b"7-7"
        if continues:
            previous_id = entry_id(self.merger.last)
        # The id of an entry to come cannot be guessed.
        self.wire.insert(0, HistoryEntry(place(epoch, self.server.time + ahead, 10**6), previous_id, FORGED))

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
        numbers = [number for number in self.genuine() if isinstance(number, int)]
        assert numbers == sorted(set(numbers))

    @invariant()
    def no_hole_without_a_report(self) -> None:
        seen = self.genuine()
        for former, latter in pairwise(seen):
            if isinstance(former, int) and isinstance(latter, int):
                assert set(range(former + 1, latter)) <= self.lost_by_server

    @invariant()
    def no_report_without_a_reason(self) -> None:
        assert self.history_was_cut or self.entries_were_forged or GAP not in self.seen

    def genuine(self) -> list[int | str]:
        return [each for each in self.seen if each != int(FORGED)]

    def teardown(self) -> None:
        """When all is quiet and one more message has been published, the node is where the server is."""
        self.come_to_rest()
        disturbed = self.entries_were_lost or self.entries_were_forged
        assert disturbed or entry_id(self.server.last) == BEGINNING or self.merger.last == self.server.last
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
    merger = HistoryMerger()
    assert merger.add_history(place(1, 0, 0), []) == (False, [])
    assert merger.add_live(HistoryEntry(place(1, 9, 0), BEGINNING, b"first"))
    assert not merger.catching_up


def test_an_entry_that_nobody_published_has_the_history_read_twice_and_no_more() -> None:
    merger = HistoryMerger()
    merger.add_history(place(1, 7, 0), [])
    forged = HistoryEntry(place(1, 9_000, 5), b"9000-4", b"forged")
    assert not merger.add_live(forged)
    assert merger.add_history(place(1, 7, 0), []) == (False, [])
    assert merger.catching_up
    assert merger.add_history(place(1, 7, 0), []) == (False, [])
    assert not merger.catching_up
    following = HistoryEntry(place(1, 8, 0), entry_id(place(1, 7, 0)), b"real")
    assert merger.add_live(following)


def merger_at(position: bytes) -> HistoryMerger:
    merger = HistoryMerger()
    merger.add_history(position, [])
    return merger


P, L, E = place(1, 7, 0), place(1, 8, 0), place(1, 9, 0)
CHAIN = [(5, b"8-0"), (6, b"9000-5")]
EIGHT, NINE = HistoryEntry(L, entry_id(P), b"8"), HistoryEntry(E, entry_id(L), b"9")


@pytest.mark.parametrize(
    ("forged", "of_server"),
    [
        pytest.param(HistoryEntry(place(1, 9_000, 5), entry_id(L), b"forged"), NINE, id="far ahead"),
        pytest.param(HistoryEntry(place(1, 8, 1), entry_id(L), b"forged"), NINE, id="a little ahead"),
    ],
)
def test_after_a_forged_entry_nothing_is_missed(forged: HistoryEntry, of_server: HistoryEntry) -> None:
    merger = merger_at(P)
    assert merger.add_live(EIGHT)
    assert merger.add_live(forged), "nobody can tell"
    assert not merger.add_live(of_server)
    assert merger.catching_up
    assert merger.reached == L
    assert merger.add_history(E, [of_server]) == (False, [of_server])
    assert not merger.catching_up
    assert merger.forged == 1
    assert not merger.add_live(EIGHT)
    assert not merger.catching_up, "what the server has confirmed came twice"


def test_after_several_forged_entries_a_gap_is_reported() -> None:
    merger = merger_at(L)
    forged = [HistoryEntry(place(1, 9_000, number), previous_id, b"forged") for number, previous_id in CHAIN]
    assert [merger.add_live(entry) for entry in [*forged, NINE]] == [True, True, False]
    assert merger.add_history(E, []) == (True, [])
    assert merger.add_live(HistoryEntry(place(1, 9, 1), entry_id(E), b"10"))


def test_an_epoch_that_is_forged_is_not_handed_out() -> None:
    merger = merger_at(L)
    assert not merger.add_live(HistoryEntry(place(2, 9_000, 5), BEGINNING, b"forged"))
    assert not merger.add_live(NINE)
    assert merger.add_history(L, []) == (False, [NINE])
    assert merger.add_history(E, []) == (False, [])
    assert (merger.last, merger.catching_up, merger.forged) == (E, False, 1)


def test_an_epoch_that_begins_over_an_unbroken_connection() -> None:
    """The server has forgotten the position of a group that was quiet for a day."""
    first = HistoryEntry(place(2, 9, 0), BEGINNING, b"first")
    second = HistoryEntry(place(2, 9, 1), entry_id(first.position), b"second")
    for history, missed in (([first, second], False), ([second], True), ([], True)):
        merger = merger_at(L)
        assert not merger.add_live(second)
        assert merger.add_history(second.position, []) == (False, [])
        assert merger.add_history(second.position, history) == (missed, history)
        assert (merger.last, merger.catching_up) == (second.position, False)


@pytest.mark.parametrize("broken", [False, True])
def test_the_first_entries_of_a_group_that_nobody_had_published_to(broken: bool) -> None:
    merger = merger_at(b"00000000-0-0")
    first = HistoryEntry(place(2, 9, 0), BEGINNING, b"first")
    second = HistoryEntry(place(2, 9, 1), entry_id(first.position), b"second")
    if broken:
        merger.restart()
        assert merger.add_history(second.position, []) == (False, [])
        assert merger.add_history(second.position, [first, second]) == (False, [first, second])
    else:
        assert merger.add_live(first)
        assert merger.add_live(second)
    assert (merger.last, merger.catching_up) == (second.position, False)


def test_forged_entries_of_a_group_that_nobody_had_published_to() -> None:
    merger = merger_at(b"00000000-0-0")
    forged = [
        HistoryEntry(place(2, 9_000, number), previous_id, b"forged")
        for number, previous_id in [(5, BEGINNING), *CHAIN[1:]]
    ]
    eight = EIGHT._replace(previous_id=BEGINNING)
    assert [merger.add_live(entry) for entry in [*forged, eight]] == [True, True, False]
    assert merger.add_history(L, []) == (False, [])
    assert merger.add_history(L, [eight]) == (False, [eight])
    assert (merger.last, merger.catching_up) == (L, False)


def test_a_genuine_entry_that_was_in_doubt_comes_once() -> None:
    """A copy of an older one comes, which the server has not confirmed either."""
    for history in ([EIGHT, NINE], [NINE], []):  # as much as is left of it
        merger = merger_at(P)
        assert merger.add_live(EIGHT)
        assert merger.add_live(NINE)
        assert not merger.add_live(EIGHT)
        assert merger.reached == L
        assert merger.add_history(E, history[1:]) == (False, [])
        assert (merger.last, merger.catching_up, merger.forged) == (E, False, 0)


def test_what_follows_an_entry_that_the_history_has_lost() -> None:
    merger = merger_at(P)
    assert merger.add_live(EIGHT)
    merger.restart()
    assert merger.reached == P
    assert merger.add_history(E, [NINE]) == (False, [NINE]), "the entry names the one that is trimmed"


def test_a_server_that_comes_back_without_its_last_entry() -> None:
    merger = merger_at(P)
    assert merger.add_live(EIGHT)
    merger.restart()
    instead = HistoryEntry(place(1, 9, 5), entry_id(P), b"instead")
    assert merger.add_history(instead.position, [instead]) == (True, [instead])
    assert merger.forged == 0


def test_what_another_server_knew_before_does_not_come() -> None:
    """It takes over with a history of its own."""
    merger = merger_at(L)
    merger.restart()
    old = HistoryEntry(place(2, 5, 0), BEGINNING, b"old")
    new = HistoryEntry(place(2, 10, 0), entry_id(old.position), b"new")
    assert merger.add_history(new.position, []) == (True, [])
    assert merger.reached == place(2, 0, 0)
    assert merger.add_history(new.position, [old, new]) == (False, [new])
    assert not merger.catching_up


@pytest.mark.parametrize("published", [False, True])
def test_a_server_that_lost_its_memory_is_missed_by_groups_that_nobody_had_published_to(published: bool) -> None:
    """What was published before the restart, and after the connection broke, is nowhere."""
    merger = merger_at(b"00000000-0-0")
    merger.restart()
    if published:
        assert merger.add_history(L, [], memory_lost=True) == (True, [])
        first = EIGHT._replace(previous_id=BEGINNING)
        assert merger.add_history(L, [first], memory_lost=True) == (False, [first])
    else:
        assert merger.add_history(b"00000000-0-0", [], memory_lost=True) == (True, [])
    assert not merger.catching_up


def test_another_master_that_lost_its_memory_is_missed_by_no_group_that_has_an_epoch() -> None:
    merger = merger_at(L)
    merger.restart()
    assert merger.add_history(L, [], memory_lost=True) == (False, [])
