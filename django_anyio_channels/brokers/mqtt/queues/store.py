"""The messages of one queue, as the node that keeps them sees them. No network, no waiting."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

Reader = tuple[str, int]
"""A task that waits: its node, and the number that the node gave it."""

Packed = tuple[float, float, bytes]
"""A message on its way between nodes: stamp, seconds that it has left, bytes."""


@dataclass(slots=True, order=True)
class Stored:
    """One message. They are ordered by when the queue got them."""

    stamp: float
    message: bytes
    ends: float

    def pack(self) -> Packed:
        return (self.stamp, self.ends - monotonic(), self.message)


def unpack(packed: Packed) -> Stored:
    stamp, left, message = packed
    return Stored(stamp, message, monotonic() + left)


class Store:
    """Messages that wait for readers, and readers that wait for messages."""

    def __init__(self) -> None:
        self._messages: list[Stored] = []
        self._readers: dict[Reader, None] = {}
        self._last = 0.0

    def __len__(self) -> int:
        """How many messages wait, expired ones included."""
        return len(self._messages)

    def put(self, message: bytes, capacity: int, expiry: float) -> bool:
        """Append; False if ``capacity`` messages wait already."""
        self._forget_expired()
        if len(self._messages) >= capacity:
            return False
        # Strictly growing: two messages never tie, and an order never depends on their bytes.
        self._last = max(time.time(), self._last + 1e-6)
        self._messages.append(Stored(self._last, message, monotonic() + expiry))
        return True

    def insert(self, stored: Iterable[Stored]) -> None:
        """Take messages back that had been in a queue before; each goes where it was."""
        for each in stored:
            insort(self._messages, each)
            self._last = max(self._last, each.stamp)

    def wait(self, reader: Reader) -> None:
        """A reader waits."""
        self._readers.setdefault(reader)

    def stop(self, reader: Reader) -> None:
        """A reader waits no longer."""
        self._readers.pop(reader, None)

    def stop_node(self, node: str) -> None:
        """No reader of a node waits any longer."""
        for reader in [reader for reader in self._readers if reader[0] == node]:
            del self._readers[reader]

    def readers(self) -> list[Reader]:
        """Who waits, longest first."""
        return list(self._readers)

    def match(self) -> tuple[Reader, Stored] | None:
        """The reader that has waited longest, with the oldest message; None if either is missing."""
        self._forget_expired()
        if not self._messages or not self._readers:
            return None
        reader = next(iter(self._readers))
        del self._readers[reader]
        return reader, self._messages.pop(0)

    def pop(self) -> Stored | None:
        """Remove and return the oldest message."""
        self._forget_expired()
        return self._messages.pop(0) if self._messages else None

    def clear(self) -> list[Stored]:
        """Remove and return all messages."""
        self._forget_expired()
        messages, self._messages = self._messages, []
        return messages

    def _forget_expired(self) -> None:
        now = monotonic()
        if any(each.ends <= now for each in self._messages):
            self._messages = [each for each in self._messages if each.ends > now]
