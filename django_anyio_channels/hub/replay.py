"""A subscription that begins in the past: history first, then live events, each once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from reprlib import repr as short_repr
from time import monotonic

from ..core.events import Event
from ..core.exceptions import InvalidPosition
from .subscriber import Subscriber, Timestamped


def check_group(group: object) -> None:
    """Raise `TypeError` for what cannot be the name of a group."""
    if not isinstance(group, str):
        raise TypeError(f"The name of a group is a str, not {type(group).__name__}")


def check_subscription(groups: tuple[object, ...], pattern: str | None, since: object, ack: object) -> None:
    """Raise `TypeError`, `ValueError` or `InvalidPosition` for arguments that `Channel.subscribe` cannot take."""
    if ack not in ("auto", "manual"):
        raise ValueError(f"ack is {ack!r}; it must be 'auto' or 'manual'")
    if not groups and pattern is None:
        raise TypeError("subscribe() needs at least one group or a pattern")
    if since is not None and (len(groups) != 1 or pattern is not None):
        raise TypeError("subscribe(since=...) takes one group: a position belongs to the history of one")
    for group in groups:
        check_history_range(group, since, None)


def check_history_range(group: object, since: object, limit: object, name: str = "limit") -> None:
    """Raise `InvalidPosition`, `TypeError` or `ValueError` for arguments that no history can take.

    A layer checks what a position looks like. ``name`` is that of the argument ``limit``.
    """
    check_group(group)
    if since is not None and not isinstance(since, str):
        raise InvalidPosition(f"{short_repr(since)} is not a position; use a str, or None for the last messages")
    if limit is None:
        return
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"{name} is {limit!r}; it must be a whole number of messages")
    if limit < 0:
        raise ValueError(f"{name} is {limit}; it must be 0 messages or more")


@dataclass(slots=True, eq=False)
class ReplaySink:
    """The sink in front of a mailbox that holds live events back until `start` has put the history before them.

    ``gap_event`` is put where events are missing: when the mailbox is full, once until it takes events again and
    whatever its capacity, and by `mark_gap`.
    """

    subscriber: Subscriber
    is_after: Callable[[str, str], bool]
    """`BaseChannelLayer.is_after`."""
    gap_event: Event[bytes] | None = None
    _in_gap: bool = field(default=False, init=False)
    _held: list[Timestamped] | None = field(default_factory=list, init=False)
    _history_end: str | None = field(default=None, init=False)
    """The last position of the history, until a live event is after it: the two ways may overlap."""

    def put(self, entry: Timestamped) -> None:
        """Take a live event."""
        if self._held is not None:
            self._held.append(entry)
            return
        if self._history_end is not None and entry[1].position is not None:
            if not self.is_after(entry[1].position, self._history_end):
                return
            self._history_end = None
        dropped = self.subscriber.dropped
        self.subscriber.put(entry)
        if self.subscriber.dropped == dropped:
            self._in_gap = False
        elif not self._in_gap:
            self._in_gap = True
            self.mark_gap()

    def mark_gap(self) -> None:
        """Put the gap event: here events are missing for good."""
        if self.gap_event is not None:
            entry = (monotonic(), self.gap_event)
            if self._held is not None:
                self._held.append(entry)
            else:
                self.subscriber.put(entry, force=True)

    def close(self) -> None:
        """Called when no more events will come."""
        self.subscriber.close()

    def start(self, since: str, history: list[Event[bytes]]) -> None:
        """Put the history, then the live events after it; the mailbox's capacity is for those."""
        now = monotonic()
        self.subscriber.put_in_front([(now, event) for event in history])
        self._history_end = (history[-1].position if history else None) or since
        held, self._held = self._held or [], None
        for entry in held:
            self.put(entry)
