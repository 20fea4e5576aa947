"""The messages of one queue in memory, in the order in which the queue got them. No network, no waiting."""

from __future__ import annotations

import time
from bisect import insort
from dataclasses import dataclass
from math import inf
from time import monotonic

PackedMessage = tuple[float, float, bytes]
"""A message on its way between nodes: stamp, seconds until it expires, payload."""


@dataclass(slots=True, order=True)
class QueuedMessage:
    """One message. Messages are ordered by when their queue got them."""

    stamp: float
    payload: bytes
    expires_at: float
    """In the time of `monotonic`."""

    def pack(self) -> PackedMessage:
        return (self.stamp, self.expires_at - monotonic(), self.payload)


def unpack(packed: PackedMessage) -> QueuedMessage:
    stamp, seconds_left, payload = packed
    return QueuedMessage(stamp, payload, monotonic() + seconds_left)


class Store:
    """Messages without a reader. Its length leaves out those that have expired."""

    def __init__(self) -> None:
        self._messages: list[QueuedMessage] = []
        self._first_expiry = inf
        """When the first message expires, or earlier."""
        self._last_stamp = 0.0

    def __len__(self) -> int:
        now = monotonic()
        if self._first_expiry <= now:
            self._messages = [each for each in self._messages if each.expires_at > now]
            self._first_expiry = min((each.expires_at for each in self._messages), default=inf)
        return len(self._messages)

    @property
    def expires_in(self) -> float | None:
        """Seconds until the oldest message expires; None if there is none."""
        return self._messages[0].expires_at - monotonic() if len(self) else None

    def put(self, payload: bytes, capacity: int, expiry: float) -> bool:
        """Append a message. Returns False if ``capacity`` messages wait already."""
        if len(self) >= capacity:
            return False
        # Strictly growing: two messages never tie, and an order never depends on their bytes.
        self._last_stamp = max(time.time(), self._last_stamp + 1e-6)
        message = QueuedMessage(self._last_stamp, payload, monotonic() + expiry)
        self._messages.append(message)
        self._first_expiry = min(self._first_expiry, message.expires_at)
        return True

    def appendleft(self, message: QueuedMessage) -> None:
        """Put a message that was in the queue before back to its place."""
        insort(self._messages, message)
        self._first_expiry = min(self._first_expiry, message.expires_at)
        self._last_stamp = max(self._last_stamp, message.stamp)

    def popleft(self) -> QueuedMessage:
        """Remove and return the oldest message of those that the last `len` counted."""
        return self._messages.pop(0)

    def clear(self) -> list[QueuedMessage]:
        """Remove and return all messages."""
        messages, self._messages = self._messages, []
        return messages
