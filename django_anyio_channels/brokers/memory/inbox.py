"""What the broker hands to one layer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from anyio.lowlevel import current_token

from ...core.events import Event
from .queues import ThreadSafeNotifier

_MAX_UNREAD_EVENTS = 100_000
"""A layer that leaves so many events unread is cut off, as network brokers do."""


class Inbox:
    """The events that one layer has not read yet."""

    def __init__(self) -> None:
        self.events: deque[Event[bytes]] = deque()
        self.notifier: ThreadSafeNotifier = ThreadSafeNotifier()
        self.open: bool = True
        self.thread: int = threading.get_ident()
        self.handler: Callable[[Event[bytes]], None] | None = None
        self.resume_at: dict[str, bytes] = {}
        """Once it was cut off: the position up to which each group with a history was read."""
        self.patterns: set[str] = set()
        """Once it was cut off: what it subscribed to by patterns."""
        # trio cannot be asked.
        self._loop_is_running: Callable[[], bool] = getattr(current_token().native_token, "is_running", bool)

    def usable_handler(self) -> Callable[[Event[bytes]], None] | None:
        """Return the handler for an event that is published in this event loop, unless earlier ones wait."""
        return self.handler if not self.events and self.open and self._loop_is_running() else None

    def deliver(self, event: Event[bytes]) -> bool:
        """Add an event. Returns False if the event loop is closed, or too many events are unread."""
        self.events.append(event)
        if len(self.events) > _MAX_UNREAD_EVENTS:
            self.open = False
        return self.notifier.notify() and self.open

    def emit(self, event: Event[bytes]) -> None:
        """Pass an event on that is for this layer alone, in its own event loop, before those that are unread."""
        if self.handler is not None and self.open:
            self.handler(event)
        else:
            self.deliver(event)

    def close(self) -> None:
        self.open = False
        self.events.clear()
        self.notifier.notify()
