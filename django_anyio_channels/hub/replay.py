"""A subscriber that begins in the past: first the history since a position, then what is live, each once."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from ..core.events import Event
from .subscriber import Entry, Subscriber


class Rejoining:
    """The sink in front of a mailbox: it holds live events back until it is told of the history before them.

    With a ``notice``, this event is put where events are missing from then on: because the mailbox was full, once
    until it takes events again and whatever its capacity, or because somebody called `miss`.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        is_after: Callable[[str, str], bool],
        notice: Event[bytes] | None = None,
    ) -> None:
        self._subscriber = subscriber
        self._is_after = is_after
        self._notice = notice
        self._missing = False
        self._held: list[Entry] | None = []
        self._reached: str | None = None
        """The end of the history, until live events have passed it: they come another way, and may come later."""

    def put(self, entry: Entry) -> None:
        """Take a live event."""
        if self._held is not None:
            self._held.append(entry)
            return
        if self._reached is not None and entry[1].position is not None:
            if not self._is_after(entry[1].position, self._reached):
                return
            self._reached = None
        dropped = self._subscriber.dropped
        self._subscriber.put(entry)
        if self._subscriber.dropped == dropped:
            self._missing = False
        elif not self._missing:
            self._missing = True
            self.miss()

    def miss(self) -> None:
        """Here events are missing that can't be got any more."""
        if self._notice is not None:
            entry = (monotonic(), self._notice)
            if self._held is not None:
                self._held.append(entry)
            else:
                self._subscriber.put(entry, anyway=True)

    def close(self) -> None:
        """No more events will come."""
        self._subscriber.close()

    def begin(self, since: str, history: list[Event[bytes]]) -> None:
        """Put the history first, then what is live and not in it; the mailbox's capacity grows by the history."""
        now = monotonic()
        self._subscriber.capacity += len(history)
        for event in reversed(history):
            self._subscriber.put_back((now, event))
        self._reached = (history[-1].position if history else None) or since
        held, self._held = self._held or [], None
        for entry in held:
            self.put(entry)
