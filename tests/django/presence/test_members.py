"""`django.presence.members`: what a node writes and publishes of its own members."""

from __future__ import annotations

from django_anyio_channels.django.presence.members import PART_SIZE, Change, LocalMembers
from django_anyio_channels.django.presence.records import (
    BYTES_AT_ONCE,
    LARGEST_EVENT,
    LARGEST_META,
    LARGEST_METAS,
    LONGEST_MEMBER,
    MEMBERS_AT_ONCE,
    MOST_METAS,
    NodeRecords,
    decode_counts,
    decode_records,
    encode_event,
)

NODE = "0123456789abcdef"


class Broker:
    """What the broker has of a node."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.counts: dict[str, bytes] = {}
        self.written = 0

    def write(self, change: Change) -> None:
        places = [(self.records, NODE, change.head)]
        for part, (members, counts) in change.parts.items():
            places += [(self.records, f"{NODE}.{part}", members), (self.counts, f"{NODE}.{part}", counts)]
            self.written += 1
        for place, key, content in places:
            place[key] = content
            if not content:
                del place[key]

    def read(self) -> NodeRecords | None:
        found = decode_records(self.records)
        if found is not None:
            assert found.are_complete
            assert decode_counts(self.counts) == {member: entry.channels for member, entry in found.members.items()}
        return found


def test_two_channels_are_one_member() -> None:
    local, broker = LocalMembers(NODE), Broker()
    assert local.join("a", "42", b"A", 10.0) is None
    assert local.join("b", "42", b"B", 20.0) is None
    change = local.take(1)
    broker.write(change)
    assert change.update.put["42"].metas == [b"A", b"B"]
    assert (change.update.previous, change.update.number) == (0, 1)
    assert not local.has_changed
    read = broker.read()
    assert read is not None
    assert read.members == change.update.put
    assert read.members["42"].since == 10.0
    assert local.leave("a") is None
    assert local.leave("b") == ("42", 1)
    assert local.leave("b") is None  # it has left
    assert local.take(2).update.put["42"].metas == [b"B"]  # of the grace period
    local.end("42", 1)
    assert len(local) == 0
    change = local.take(5)
    assert (change.update.removed, change.update.previous, change.update.number) == (["42"], 2, 5)
    broker.write(change)
    assert broker.read() is None
    assert broker.records == broker.counts == {}
    local.join("a", "42", b"A", 10.0)
    assert local.take(6).update.previous == 0  # it begins again


def test_a_member_that_came_back_does_not_end() -> None:
    local = LocalMembers(NODE)
    local.join("a", "42", b"A", 10.0)
    absence = local.leave("a")
    assert absence is not None
    local.join("b", "42", b"B", 20.0)
    local.end(*absence)
    assert local.leave("b") == ("42", 2)
    local.end(*absence)
    assert len(local) == 1
    local.end("42", 2)
    local.end("42", 2)
    assert len(local) == 0


def test_a_channel_becomes_another_members() -> None:
    local = LocalMembers(NODE)
    local.join("a", "42", b"A", 10.0)
    assert local.join("a", "7", b"A", 20.0) == ("42", 1)
    assert {member: entry.channels for member, entry in local.take(1).update.put.items()} == {"42": 0, "7": 1}


def test_the_latest_metas_of_many_windows() -> None:
    local = LocalMembers(NODE)
    for number in range(MOST_METAS + 10):
        local.join(f"channel {number}", "42", b"%d" % number, 10.0)
    local.join("channel 0", "42", b"changed", 10.0)
    entry = local.take(1).update.put["42"]
    assert entry.channels == MOST_METAS + 10
    assert len(entry.metas) == MOST_METAS
    assert entry.metas[-2:] == [b"%d" % (MOST_METAS + 9), b"changed"]


def test_one_more_member_of_many_costs_one_part() -> None:
    local, broker = LocalMembers(NODE), Broker()
    count = 10 * MEMBERS_AT_ONCE
    for number in range(count):
        local.join(f"channel {number}", f"member {number}", b"", 10.0)
    changes = 0
    while local.has_changed:
        changes += 1
        change = local.take(changes)
        assert len(change.update.put) <= MEMBERS_AT_ONCE
        broker.write(change)
    assert changes == 10
    read = broker.read()
    assert read is not None
    assert len(read.members) == count
    assert broker.written == count / PART_SIZE
    broker.written = 0
    local.join("one more", "one more", b"", 10.0)
    broker.write(local.take(changes + 1))
    assert broker.written == 1
    # The place of one that left is taken again.
    absence = local.leave("channel 5")
    assert absence is not None
    local.end(*absence)
    local.join("another", "another", b"", 10.0)
    change = local.take(changes + 2)
    assert sorted(change.update.put) == ["another"]
    assert change.update.removed == ["member 5"]
    broker.write(change)
    assert broker.read() is not None


def test_a_member_that_moves_to_another_part_between_two_changes() -> None:
    local, broker = LocalMembers(NODE), Broker()
    for number in range(2 * PART_SIZE):
        local.join(f"channel {number}", f"member {number}", b"", 10.0)
    broker.write(local.take(1))
    for number in (PART_SIZE, 0):  # their places are taken in this order
        absence = local.leave(f"channel {number}")
        assert absence is not None
        local.end(*absence)
    local.join("channel 0", "member 0", b"", 10.0)
    broker.write(local.take(2))
    read = broker.read()
    assert read is not None
    assert len(read.members) == 2 * PART_SIZE - 1


def test_what_reached_nobody_is_taken_again() -> None:
    local, broker = LocalMembers(NODE), Broker()
    local.join("a", "42", b"A", 10.0)
    local.join("b", "7", b"B", 10.0)
    broker.write(local.take(1))
    absence = local.leave("b")
    assert absence is not None
    local.end(*absence)
    local.join("a", "42", b"C", 10.0)
    failed = local.take(2)
    local.restore(failed)
    again = local.take(3)
    assert (again.update.put, again.update.removed) == (failed.update.put, failed.update.removed)
    assert again.update.previous == 2
    broker.write(again)
    assert broker.read() is not None


def test_all_records_and_all_members_once_more() -> None:
    local, broker = LocalMembers(NODE), Broker()
    for number in range(2 * PART_SIZE):
        local.join(f"channel {number}", f"member {number}", b"", 10.0)
    local.take(4)
    broker.write(local.all())
    read = broker.read()
    assert read is not None
    assert len(read.members) == 2 * PART_SIZE
    update = local.all().update
    assert (update.previous, update.number, update.put) == (4, 4, {})
    local.mark_all()
    change = local.take(5)
    assert len(change.update.put) == 2 * PART_SIZE
    assert change.update.previous == 0


def test_many_members_with_large_metas_go_along_in_several_events() -> None:
    local, broker = LocalMembers(NODE), Broker()
    names = {f"{number:{LONGEST_MEMBER}}".replace(" ", "\u4e2d") for number in range(MEMBERS_AT_ONCE)}
    for name in names:
        for window in range(MOST_METAS):
            local.join(f"{name} {window}", name, b"%2d" % window + b"m" * (LARGEST_META - 2), 10.0)
    told: set[str] = set()
    for number in range(1, MEMBERS_AT_ONCE):
        change = local.take(number)
        told.update(change.update.put)
        for entry in change.update.put.values():
            assert entry.channels == MOST_METAS
            assert [int(meta[:2]) for meta in entry.metas] == list(range(MOST_METAS))[-LARGEST_METAS // LARGEST_META :]
        assert len(encode_event(change.update)) < BYTES_AT_ONCE + 2 * LARGEST_METAS < LARGEST_EVENT
        broker.write(change)
        if not local.has_changed:
            break
    assert told == names
    # What brokers for small devices take, too.
    assert max(map(len, broker.records.values())) < 640 * 1024
    read = broker.read()
    assert read is not None
    assert read.members.keys() == names
