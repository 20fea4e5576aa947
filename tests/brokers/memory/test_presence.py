"""`brokers.memory.presence`: records end, and leave nothing behind."""

from __future__ import annotations

import pytest

from django_anyio_channels.brokers.memory import presence
from django_anyio_channels.brokers.memory.presence import PresenceTable
from django_anyio_channels.core.capabilities import PresenceRecord


def test_records_end_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(presence, "monotonic", lambda: now)
    table = PresenceTable()
    table.put([PresenceRecord("a", "one", b"1"), PresenceRecord("b", "one", b"2")], 10.0)
    table.put([PresenceRecord("a", "two", b"3")], 30.0)
    assert table.read("a") == {"one": b"1", "two": b"3"}
    now += 11.0
    assert table.read("a") == {"two": b"3"}
    table.put([PresenceRecord("a", "two", b""), PresenceRecord("c", "none", b"")], 10.0)
    assert list(table._records) == ["b"]  # nobody reads it
    now += 60.0
    table.put([PresenceRecord("d", "one", b"4"), PresenceRecord("d", "two", b"5")], 10.0)
    table.put([PresenceRecord("d", "two", b"")], 10.0)
    assert list(table._records) == ["d"]
    table.purge("x")
    assert table.read("d") == {"one": b"4"}
    table.purge("d")
    assert table.read("d") == {}
