"""Waiting for something to happen in one event loop, cheaply and on every event loop that anyio runs on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, cast

import anyio
from anyio.lowlevel import current_token


class Waiter(Protocol):
    """What one task awaits once; an `asyncio.Future` is one."""

    def __await__(self) -> Generator[Any, Any, Any]: ...

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...


NewWaiter = Callable[[], Waiter]
CallSoon = Callable[[Callable[[], object]], object]


class _EventWaiter:
    """A waiter for event loops that have no futures (trio)."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, result: None, /) -> None:
        self._event.set()


def waiter_factory() -> NewWaiter:
    """The cheapest way to wait in the running event loop.

    A bare future of asyncio's loop costs a seventh of an `anyio.Event`, and a mailbox needs one for each message.
    """
    loop = current_token().native_token
    return cast(NewWaiter, getattr(loop, "create_future", _EventWaiter))


def call_soon_from_thread() -> CallSoon:
    """A function that runs a callback in the running event loop soon, callable from any thread; it does not wait."""
    loop: Any = current_token().native_token
    return cast(CallSoon, loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon)


def loop_is_running() -> Callable[[], bool]:
    """A function that tells, in the running event loop's own thread, whether this loop is the one that runs.

    Where an event loop does not tell (trio's), it says no.
    """
    return cast(Callable[[], bool], getattr(current_token().native_token, "is_running", bool))


class Bell:
    """Wakes tasks that wait for a change.

    A ring with nobody waiting is not kept: look first, wait if there is nothing to see, look again. A task that is
    cancelled at the moment it is rung passes the ring on, so nothing is left lying while another task waits for it.
    """

    __slots__ = ("_new_waiter", "_waiters")

    def __init__(self, new_waiter: NewWaiter) -> None:
        self._new_waiter = new_waiter
        self._waiters: list[Waiter] = []

    @property
    def waited_for(self) -> bool:
        """Whether a task is waiting that has not been rung."""
        return bool(self._waiters)

    def ring(self) -> bool:
        """Wake the task that has waited longest. Returns whether there was one."""
        waiters = self._waiters
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return True
        return False

    def ring_all(self) -> None:
        """Wake every waiting task."""
        while self.ring():
            pass

    async def wait(self) -> None:
        """Wait for a ring."""
        waiter = self.waiter()
        try:
            await waiter
        except BaseException:
            self.give_up(waiter)
            raise

    def waiter(self) -> Waiter:
        """What `wait` awaits, for a caller in a hurry; if awaiting it raises, `give_up` must be called."""
        waiter = self._new_waiter()
        self._waiters.append(waiter)
        return waiter

    def give_up(self, waiter: Waiter) -> None:
        """Wait no longer. If it was rung already, the next one is."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        else:
            self.ring()
