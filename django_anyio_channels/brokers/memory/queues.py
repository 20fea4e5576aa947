"""Queues in memory, and the tasks that wait for their messages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from anyio.lowlevel import current_token

from ...core.exceptions import ListenerClosed
from ...core.inspection import QueueState
from ...core.notifier import Notifier, waiter_type


class ThreadSafeNotifier:
    """A `Notifier` for any thread; `notify` returns False once its event loop is closed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        loop: Any = current_token().native_token
        self._call_soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        self._scheduled = False
        self._notifier = Notifier(waiter_type())
        self.wait: Callable[[], Coroutine[Any, Any, None]] = self._notifier.wait

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


class Reader:
    """A task that waits for a message of a queue, or for work, in one session of its layer."""

    def __init__(self) -> None:
        self._notifier = ThreadSafeNotifier()
        self._closed = False
        self.wake: Callable[[], object] = self._notifier.notify

    async def wait(self) -> None:
        """Wait to be woken. Raises `ListenerClosed` once the session has ended."""
        await self._notifier.wait()
        if self._closed:
            raise not_connected()

    def close(self) -> None:
        """End the session."""
        self._closed = True
        self.wake()


def not_connected() -> ListenerClosed:
    """Return the error of a layer without a session."""
    return ListenerClosed("memory:// is not connected; use the layer through a Channel, or connect() it first")


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

    def state(self, name: str, now: float) -> QueueState:
        self.drop_expired(now)
        expires_in = self.messages[0][0] - now if self.messages else None
        return QueueState(name, len(self.messages), expires_in, readers=len(self.readers))

    def drop_expired(self, now: float) -> None:
        while self.messages and self.messages[0][0] <= now:
            self.messages.popleft()

    def wake_reader(self) -> None:
        """Wake a reader if there is something to read."""
        if self.messages:
            wake_one(self.readers)

    def stop_waiting(self, reader: Reader) -> None:
        """Remove a reader; if it was woken already, wake another one instead."""
        if reader in self.readers:
            self.readers.remove(reader)
        else:
            self.wake_reader()


def wake_one(readers: deque[Reader]) -> None:
    """Wake the reader that has waited longest; one whose event loop is closed is forgotten."""
    while readers:
        if readers.popleft().wake():
            return
