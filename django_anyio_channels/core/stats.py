"""Counters of lost messages, and logging at a bounded rate."""

from __future__ import annotations

import logging
from time import monotonic

logger: logging.Logger = logging.getLogger("django_anyio_channels")


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


class OutageStats:
    """The outages of all brokers of one `Channel`."""

    def __init__(self) -> None:
        self.reconnects: int = 0
        """How many outages are over."""
        self._seconds = 0.0
        self._began: dict[object, float] = {}

    @property
    def current(self) -> int:
        """How many connections are lost now."""
        return len(self._began)

    @property
    def seconds(self) -> float:
        """How long all outages have lasted together, until now."""
        now = monotonic()
        return self._seconds + sum(now - began for began in list(self._began.values()))

    def begin(self, connection: object) -> None:
        """Called when an established connection is lost."""
        self._began[connection] = monotonic()

    def end(self, connection: object) -> float:
        """Called when it is back. Returns for how many seconds it was lost."""
        seconds = monotonic() - self._began.pop(connection)
        self._seconds += seconds
        self.reconnects += 1
        return seconds


class DeliveryStats:
    """What the mailboxes of one `Channel` could not keep, and how many bytes each keeps behind its first message."""

    def __init__(self, mailbox_bytes: int = MAILBOX_BYTES) -> None:
        self.mailbox_bytes = mailbox_bytes
        self.dropped = 0
        """Messages for a full mailbox, or a full queue that is bound to their group."""
        self.dropped_bytes = 0
        """Those of them that a mailbox had no bytes for."""
        self.dropped_queue = 0
        """Those of them that a queue had no room for."""
        self.replaced = 0
        """Messages that waited when a newer one with the same key came, which took their place."""
        self.closed = 0
        """Mailboxes that were closed, with their WebSockets, because they were full."""
        self.expired = 0
        """Messages that were not read in time."""
        self.undecodable: int = 0
        """Payloads that the serializer did not write, or that were encrypted with another key."""
        self.unbuffered = 0
        """Events that were for the node itself, and came into no mailbox."""
        self.dead_letters = 0
        """Messages that were delivered too often, and moved to a group of dead letters."""
        self.outages: OutageStats = OutageStats()
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
