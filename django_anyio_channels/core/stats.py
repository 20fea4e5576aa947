"""Counters of lost messages, and logging at a bounded rate."""

from __future__ import annotations

import logging
from time import monotonic

logger = logging.getLogger("django_anyio_channels")


class RateLimitedLogger:
    """Writes at most ``lines`` log records in ``seconds``; the next record says how many were suppressed."""

    def __init__(self, lines: int = 10, seconds: float = 10.0) -> None:
        self._lines = lines
        self._seconds = seconds
        self._window_began = -seconds
        self._written = 0
        self._suppressed = 0

    def write(self, level: int, text: str, *args: object, exc_info: BaseException | None = None) -> bool:
        """Log a record, unless the limit is reached. Returns whether it was written."""
        now = monotonic()
        if now - self._window_began >= self._seconds:
            self._window_began, self._written = now, 0
        if self._written >= self._lines:
            self._suppressed += 1
            return False
        self._written += 1
        if self._suppressed:
            text, args = f"{text} (%d similar lines suppressed)", (*args, self._suppressed)
            self._suppressed = 0
        logger.log(level, text, *args, exc_info=exc_info)
        return True


MAILBOX_BYTES = 32 * 1024 * 1024
"""Eight of the largest messages that the default settings allow."""


class DeliveryStats:
    """What the mailboxes of one `Channel` could not keep, and how many bytes each keeps behind its first message."""

    def __init__(self, mailbox_bytes: int = MAILBOX_BYTES) -> None:
        self.mailbox_bytes = mailbox_bytes
        self.dropped = 0
        """Messages for a full mailbox."""
        self.expired = 0
        """Messages that were not read in time."""
        self.undecodable = 0
        """Payloads that the serializer did not write, or that were encrypted with another key."""
        self._log = RateLimitedLogger()

    def log_overflow(self, name: str, limit: str) -> bool:
        """Log that a mailbox started dropping messages. Returns whether a record was written."""
        text = "%s is full (%s); dropping messages until it is read. Read faster, or raise the limit"
        return self._log.write(logging.WARNING, text, name, limit)

    def log_recovered(self, name: str, dropped: int) -> None:
        """Log that a mailbox takes messages again, if `log_overflow` wrote a record for it."""
        logger.warning("%s takes messages again; %d were dropped", name, dropped)

    def count_undecodable(self, name: str, error: Exception) -> None:
        """Count and log a dropped payload."""
        self.undecodable += 1
        self._log.write(logging.ERROR, "Dropped a message for %s: %s", name, error)
