"""A subscriber that begins in the past: first the history since a position, then what is live, each once."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from .event import Event
from .subscriber import Entry, Subscriber


class Rejoining:
    """The sink in front of a mailbox: it holds live events back until it is told of the history before them."""

    def __init__(self, subscriber: Subscriber, is_after: Callable[[str, str], bool]) -> None:
        self._subscriber = subscriber
        self._is_after = is_after
        self._held: list[Entry] | None = []

    def put(self, entry: Entry) -> None:
        """Take a live event."""
        if self._held is None:
            self._subscriber.put(entry)
        else:
            self._held.append(entry)

    def close(self) -> None:
        """No more events will come."""
        self._subscriber.close()

    def begin(self, since: str, history: list[Event[bytes]]) -> None:
        """Put the history first, and then the live events that it does not hold; the mailbox's capacity grows by it."""
        now = monotonic()
        self._subscriber.capacity += len(history)
        for event in reversed(history):
            self._subscriber.put_back((now, event))
        last = (history[-1].position if history else None) or since
        held, self._held = self._held or [], None
        for entry in held:
            position = entry[1].position
            if position is not None and self._is_after(position, last):
                self._subscriber.put(entry)
