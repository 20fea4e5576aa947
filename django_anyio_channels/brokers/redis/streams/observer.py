"""What a layer with histories does with the messages of its subscriptions (``SUBSCRIBE``)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ....core.events import Event
from ....core.exceptions import ListenerClosed
from ....core.stats import RateLimitedLogger
from ...common.entries import HistoryEntry, match_entry
from ...common.history_sync import HistorySync


class HistoryObserver:
    """A `SubscriptionObserver` that reads entries of histories out of messages."""

    def __init__(self, sync: HistorySync, on_end: Callable[[ListenerClosed], None]) -> None:
        self.on_end = on_end
        self.on_gap = sync.restart
        self._sync = sync
        self._log = RateLimitedLogger()

    def on_message(self, channel: str, pattern: str | None, message: bytes) -> None:
        match = match_entry(message)
        if match:
            self._sync.add_live(channel, HistoryEntry(*match.groups()), pattern)
        elif pattern is None and self._sync.has(channel):
            text = "Ignored a message on %s that was not published by this package: %r"
            self._log.write(logging.ERROR, text, channel, message[:80])
        else:
            self._sync.add_without_history(Event(channel, message, pattern))
