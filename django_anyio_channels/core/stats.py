"""What mailboxes could not keep, counted and told at a bounded rate."""

from __future__ import annotations

import logging
from time import monotonic

logger = logging.getLogger("django_anyio_channels")


class BoundedLog:
    """Writes at most ``lines`` log records in ``seconds``; the next record says how many were held back."""

    def __init__(self, lines: int = 10, seconds: float = 10.0) -> None:
        self._lines = lines
        self._seconds = seconds
        self._window_began = -seconds
        self._written = 0
        self._held_back = 0

    def write(self, level: int, text: str, *args: object, exc_info: BaseException | None = None) -> bool:
        """Log, unless the window's lines are used up. Returns whether a record was written."""
        now = monotonic()
        if now - self._window_began >= self._seconds:
            self._window_began, self._written = now, 0
        if self._written >= self._lines:
            self._held_back += 1
            return False
        self._written += 1
        if self._held_back:
            text, args = f"{text} (%d similar lines held back)", (*args, self._held_back)
            self._held_back = 0
        logger.log(level, text, *args, exc_info=exc_info)
        return True


class Losses:
    """The losses of all mailboxes of one `Channel`."""

    def __init__(self) -> None:
        self.dropped = 0
        """Messages that found their mailbox full."""
        self.expired = 0
        """Messages that nobody read in time."""
        self.undecodable = 0
        """Frames that were not what the serializer writes, or encrypted with another key."""
        self._log = BoundedLog()

    def mailbox_full(self, name: str, capacity: int) -> bool:
        """Tell that a mailbox begins to drop. Returns whether a line was written."""
        return self._log.write(
            logging.WARNING,
            "%s is full: its capacity of %d messages is used up, so new ones are dropped until it reads again",
            name,
            capacity,
        )

    def room_again(self, name: str, dropped: int) -> None:
        """Tell that a mailbox for which `mailbox_full` wrote a line has room again."""
        logger.warning("%s has room again; %d messages were dropped", name, dropped)

    def frame_undecodable(self, name: str, error: Exception) -> None:
        """Count and tell a frame that was thrown away."""
        self.undecodable += 1
        self._log.write(logging.ERROR, "Dropped a frame for %s: %s", name, error)
