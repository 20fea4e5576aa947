"""`django.presence.view`: the conclusions that every node draws from the same events."""

from __future__ import annotations

import pytest

from django_anyio_channels import DecodeError
from django_anyio_channels.django.presence import timing
from django_anyio_channels.django.presence import view as presence_view
from django_anyio_channels.django.presence.records import Entry, Head, NodeRecords, Update
from django_anyio_channels.django.presence.view import Difference, GroupView

ONE, TWO = "1" * 16, "2" * 16


def entry(*metas: bytes, since: float = 10.0) -> Entry:
    return Entry(since, len(metas), list(metas))


def update(node: str, previous: int, number: int, *removed: str, **put: Entry) -> Update:
    return Update(node, previous, number, put, list(removed))


def records(node: str, previous: int, number: int, *, size: int | None = None, **members: Entry) -> NodeRecords:
    return NodeRecords(Head(previous, number, len(members) if size is None else size), members)


def test_a_member_at_two_nodes_joins_once_and_leaves_once() -> None:
    view = GroupView()
    assert view.update(update(ONE, 0, 1, ana=entry(b"A", since=20.0))) == Difference(joined=["ana"])
    assert view.update(update(TWO, 0, 1, ana=entry(b"B"))) == Difference(updated=["ana"])
    assert view.find("ana") == entry(b"A", b"B")
    assert view.merged() == {"ana": entry(b"A", b"B")}
    # In the grace period at one node, the other one's metas count.
    assert view.update(update(ONE, 1, 2, ana=Entry(20.0, 0, [b"A"]))) == Difference(updated=["ana"])
    assert view.find("ana") == entry(b"B")
    assert view.update(update(ONE, 2, 3, "ana")) == Difference()
    assert view.update(update(TWO, 1, 2, "ana")) == Difference(left=["ana"])
    assert view.find("ana") is None
    assert view.nodes == {}


def test_in_the_grace_period_everywhere_the_last_meta_stays() -> None:
    view = GroupView()
    view.update(update(ONE, 0, 1, ana=entry(b"A")))
    view.update(update(TWO, 0, 1, ana=Entry(10.0, 0, [b"B"])))
    assert view.update(update(ONE, 1, 2, ana=Entry(10.0, 0, [b"A"]))) == Difference()
    assert view.find("ana") == Entry(10.0, 0, [b"A"])


def test_a_copy_changes_nothing_and_a_gap_is_noticed() -> None:
    view = GroupView()
    first = update(ONE, 0, 1, ana=entry(b"A"))
    view.update(first)
    view.update(update(ONE, 1, 2, "ana", bob=entry(b"B")))
    assert view.update(first) == Difference()
    assert view.update(update(ONE, 3, 4, eve=entry(b"E"))) is None
    assert view.update(update(ONE, 9, 9)) is None  # what a node publishes after an outage
    assert view.update(update(ONE, 2, 2)) == Difference()
    assert view.update(update(TWO, 3, 4, eve=entry(b"E"))) is None
    assert view.nodes == {ONE: 2}
    assert view.update(update(ONE, 3, 4, eve=entry(b"E")), forced=True) == Difference(joined=["eve"])


def test_a_node_that_begins_again_has_only_what_it_says() -> None:
    view = GroupView()
    view.update(update(ONE, 0, 1, ana=entry(b"A"), bob=entry(b"B")))
    assert view.update(update(ONE, 0, 5, bob=entry(b"B"), eve=entry(b"E"))) == Difference(joined=["eve"], left=["ana"])


def test_records_replace_what_was_known_of_a_node() -> None:
    view = GroupView()
    view.update(update(ONE, 0, 1, ana=entry(b"A"), bob=entry(b"B")))
    view.update(update(TWO, 0, 1, two=entry(b"T")))
    read = {ONE: records(ONE, 6, 7, bob=entry(b"B"), eve=entry(b"E")), TWO: records(TWO, 0, 1, forged=entry())}
    assert view.load(read) == Difference(joined=["eve"], left=["ana"])
    assert not view.has_absent
    # The change with which they were written may still come, and what came before it was written before.
    assert view.update(update(ONE, 5, 6, ana=entry(b"A"))) == Difference()
    assert view.update(update(ONE, 6, 7, gus=entry(b"G"))) == Difference(joined=["gus"])
    assert view.update(update(ONE, 7, 8, "bob")) == Difference(left=["bob"])


def test_records_that_are_being_written_are_of_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    view = GroupView()
    view.update(update(ONE, 0, 1, ana=entry(b"A"), bob=entry(b"B")))
    now = 100.0
    monkeypatch.setattr(presence_view, "monotonic", lambda: now)
    assert view.load({ONE: records(ONE, 1, 2, size=2, bob=entry(b"B"))}) == Difference()
    assert view.has_absent
    now += timing.LIFETIME / 2
    assert view.load({}) == Difference()
    assert view.load({ONE: records(ONE, 0, 1, ana=entry(b"A"), bob=entry(b"B"))}) == Difference()
    assert not view.has_absent
    assert view.load({}) == Difference()
    view.update(update(ONE, 1, 2, eve=entry(b"E")))
    assert not view.has_absent
    assert view.load({}) == Difference()
    now += timing.LIFETIME
    assert view.load({}) == Difference(left=["ana", "bob", "eve"])
    assert view.nodes == {}


def test_nodes_that_have_gone() -> None:
    view = GroupView()
    view.update(update(ONE, 0, 3, ana=entry(b"A"), bob=entry(b"B")))
    view.update(update(TWO, 0, 4, bob=entry(b"B")))
    assert view.remove_nodes({ONE: 2, "3" * 16: 1}) == Difference()  # a copy of an old event
    assert view.remove_nodes({ONE: 3, TWO: 4}) == Difference(left=["ana", "bob"])


def test_a_group_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_view, "MOST_MEMBERS", 2)
    view = GroupView()
    view.update(update(ONE, 0, 1, ana=entry(b"A"), bob=entry(b"B")))
    with pytest.raises(DecodeError, match="more than 2 members"):
        view.update(update(ONE, 1, 2, eve=entry(b"E")))


def test_halves() -> None:
    whole = Difference(["a", "b"], ["c"], ["d", "e"])
    assert whole.halves() == (Difference(["a", "b"]), Difference([], ["c"], ["d", "e"]))
    assert Difference(["a"]).halves() is None
    assert not Difference()
