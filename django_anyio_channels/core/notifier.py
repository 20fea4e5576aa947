"""Wake one or all waiting tasks of one event loop, cheaply and on every event loop that anyio runs on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, cast

import anyio
from anyio.lowlevel import current_token


class Notified(Protocol):
    """What is notified once, unless it is done."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


class Waiter(Notified, Protocol):
    """An object that one task awaits once; an `asyncio.Future` is one."""

    def __await__(self) -> Generator[Any, Any, Any]: ...


NewWaiter = Callable[[], Waiter]


class _EventWaiter:
    """A waiter for event loops without futures (trio)."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, result: None, /) -> None:
        self._event.set()


def waiter_type() -> NewWaiter:
    """Return the cheapest kind of waiter for the running event loop.

    A bare future of asyncio's loop costs a seventh of an `anyio.Event`, and a mailbox needs one for each message.
    """
    loop = current_token().native_token
    return cast(NewWaiter, getattr(loop, "create_future", _EventWaiter))


def is_asyncio() -> bool:
    """Return whether the running event loop is one of asyncio's kind, as uvloop's is."""
    return waiter_type() is not _EventWaiter


class Notifier:
    """Wakes tasks that wait for a change.

    A notification without a waiting task is not kept: check the condition, wait, check again. A task that is cancelled
    at the moment it is notified passes the notification on, so none is lost while another task waits.
    """

    __slots__ = ("_new_waiter", "_waiters")

    def __init__(self, new_waiter: NewWaiter) -> None:
        self._new_waiter = new_waiter
        self._waiters: list[Notified] = []

    @property
    def has_waiters(self) -> bool:
        """Whether a task waits that has not been notified."""
        return bool(self._waiters)

    def notify(self) -> bool:
        """Wake the task that has waited longest. Returns whether there was one."""
        waiters = self._waiters
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return True
        return False

    def notify_all(self) -> None:
        """Wake every waiting task."""
        for _ in range(len(self._waiters)):  # not until none is left: one may wait again at once
            self.notify()

    async def wait(self) -> None:
        """Wait to be notified."""
        waiter = self.waiter()
        try:
            await waiter
        except BaseException:
            self.cancel(waiter)
            raise

    def waiter(self) -> Waiter:
        """Return what `wait` awaits, to save a coroutine; if awaiting it raises, `cancel` must be called."""
        waiter = self._new_waiter()
        self._waiters.append(waiter)
        return waiter

    def add(self, waiter: Notified) -> None:
        """Have this one wait behind the others, too."""
        self._waiters.append(waiter)

    def cancel(self, waiter: Notified) -> None:
        """Stop waiting. If the waiter was notified already, notify the next one."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        else:
            self.notify()
