"""A FIFO of tasks that wait for items, safe to cancel, and the requeueing of what a cancelled task held."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")


class Ready(Protocol[Item]):
    """The items without a waiting task, in order; a `collections.deque` is one."""

    def __len__(self) -> int: ...

    def popleft(self) -> Item: ...

    def appendleft(self, item: Item, /) -> None:
        """Put an item back to its place, which is the first one, or the one that its order gives it."""


class WaiterQueue(Generic[Item]):
    """Tasks that wait for items. The longest waiting task gets the next one; cancelling any of them loses nothing."""

    def __init__(self, ready: Ready[Item]) -> None:
        """``ready`` holds items without a task; it is empty while tasks wait."""
        self._ready = ready
        self._waiters: deque[asyncio.Future[Item]] = deque()

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._waiters)

    def join(self) -> asyncio.Future[Item]:
        """Add a waiter, for `wait`."""
        waiter: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def wait(self, waiter: asyncio.Future[Item]) -> Item:
        """Wait for the next item. Raises the error of `fail_all`."""
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._ready.appendleft(waiter.result())
                self.dispatch()
            raise

    def dispatch(self) -> None:
        """Give the ready items to the waiting tasks."""
        while self._ready and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._ready.popleft())

    def fail_one(self, error: Exception) -> bool:
        """Fail the longest waiting task with ``error``. Returns whether there was one."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return True
        return False

    def fail_all(self, error: Exception) -> None:
        """Fail every waiting task with ``error``."""
        while self.fail_one(error):
            pass


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Have a future raise ``error`` if it is not done; nothing is logged where no task waits for it."""
    if not future.done():
        future.set_exception(error)
        future.exception()
