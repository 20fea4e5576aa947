"""Queues in memory, and the tasks that wait for their messages."""

from __future__ import annotations

from collections import deque

from .subscriptions import ThreadSafeNotifier


class Reader:
    """A task that waits for a message of a queue, or for work."""

    def __init__(self) -> None:
        self.notifier = ThreadSafeNotifier()
        self.wake = self.notifier.notify


class Queue:
    """Messages until they expire, each with the moment of that."""

    def __init__(self) -> None:
        self.messages: deque[tuple[float, bytes]] = deque()
        self.readers: deque[Reader] = deque()

    @property
    def unused(self) -> bool:
        return not self.messages and not self.readers

    def pop(self, now: float) -> bytes | None:
        self.drop_expired(now)
        return self.messages.popleft()[1] if self.messages else None

    def drop_expired(self, now: float) -> None:
        while self.messages and self.messages[0][0] <= now:
            self.messages.popleft()

    def wake_reader(self) -> None:
        """Wake a reader if there is something to read."""
        if self.messages:
            wake_one(self.readers)


def wake_one(readers: deque[Reader]) -> None:
    """Wake the reader that has waited longest; one whose event loop is closed is forgotten."""
    while readers:
        if readers.popleft().wake():
            return
