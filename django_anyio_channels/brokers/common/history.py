"""Reading a group's history, page by page, from a position on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ...core.events import Event
from ...core.exceptions import PositionLost
from .entries import HistoryEntry, entry_id, read_position


class HistoryPage(NamedTuple):
    """What a broker replies to the question what follows a position, read at one moment."""

    last: bytes
    """The position of the group's last message; ``00000000-0-0`` if the broker knows of none."""
    entries: list[HistoryEntry]
    """The first entries after the position, the oldest first; none if the position is of another epoch, or no position,
    or ``last``. The broker decides how many."""


async def events_after(
    group: str, since: str, limit: int | None, read_page: Callable[[bytes], Awaitable[HistoryPage]]
) -> list[Event[bytes]]:
    """Do what `BaseChannelLayer.history` does with ``since``. Raises `PositionLost` and `InvalidPosition`."""
    found: list[HistoryEntry] = []
    reached = read_position(since)
    while limit is None or len(found) < limit:
        last, entries = await read_page(reached)
        for entry in entries:
            if entry.previous_id != entry_id(reached):
                raise _lost(group, since)
            reached = entry.position
            found.append(entry)
        if reached == last:
            break
        if not entries:
            raise _lost(group, since)
    return as_events(group, found[:limit])


def as_events(group: str, entries: list[HistoryEntry]) -> list[Event[bytes]]:
    """Return entries of a group as events with positions."""
    return [Event(group, entry.message, None, None, entry.position.decode()) for entry in entries]


def _lost(group: str, since: str) -> PositionLost:
    return PositionLost(
        f"The history of {group} does not reach back to {since}: newer messages have replaced those after "
        f"it, or the server has lost its memory. Begin with the last messages instead"
    )
