"""Where the in-memory broker leaves events and wakes readers, in the event loop that they belong to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from anyio.lowlevel import current_token

from ...core.events import Event
from ...core.notifier import Notifier, waiter_type

_MAX_UNREAD_EVENTS = 100_000
"""A layer that leaves so many events unread is cut off, as network brokers do."""

CallSoon = Callable[[Callable[[], object]], object]


class _ThreadSafeNotifier:
    """A `Notifier` for any thread; `notify` returns False once its event loop is closed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._call_soon: CallSoon = _call_soon_from_thread()
        self._scheduled = False
        self._notifier = Notifier(waiter_type())
        self.wait = self._notifier.wait

    def notify(self) -> bool:
        try:
            if threading.get_ident() == self._thread:
                self._notifier.notify()
            elif not self._scheduled:
                self._scheduled = True
                self._call_soon(self._notify_here)
        except RuntimeError:  # what asyncio and trio raise for a closed loop
            return False
        return True

    def _notify_here(self) -> None:
        self._scheduled = False
        self._notifier.notify()


class Inbox:
    """The events that one layer has not read yet."""

    def __init__(self) -> None:
        self.events: deque[Event[bytes]] = deque()
        self.notifier = _ThreadSafeNotifier()
        self.open = True
        self.thread = threading.get_ident()
        self.handler: Callable[[Event[bytes]], None] | None = None
        self._loop_is_running = _loop_is_running()

    def usable_handler(self) -> Callable[[Event[bytes]], None] | None:
        """Return the handler for an event that is published in this event loop, unless earlier ones wait."""
        return self.handler if not self.events and self.open and self._loop_is_running() else None

    def deliver(self, event: Event[bytes]) -> bool:
        """Add an event. Returns False if the event loop is closed, or too many events are unread."""
        self.events.append(event)
        if len(self.events) > _MAX_UNREAD_EVENTS:
            self.close()
        return self.notifier.notify() and self.open

    def close(self) -> None:
        self.open = False
        self.events.clear()
        self.notifier.notify()


class Reader:
    """A task that waits in `InMemoryChannelLayer.take`."""

    def __init__(self) -> None:
        self.notifier = _ThreadSafeNotifier()
        self.wake = self.notifier.notify


def _call_soon_from_thread() -> CallSoon:
    """Return a function that schedules a callback in the running event loop from any thread, without waiting."""
    loop: Any = current_token().native_token
    return cast(CallSoon, loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon)


def _loop_is_running() -> Callable[[], bool]:
    """Return a function that says, in the running event loop's thread, whether this loop is the one that runs.

    For event loops that cannot be asked (trio's) it returns False.
    """
    return cast(Callable[[], bool], getattr(current_token().native_token, "is_running", bool))
