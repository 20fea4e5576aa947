"""The tasks of this node that wait at one queue."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Takers(Generic[Item]):
    """A line of tasks. What comes goes to the one that has waited longest; cancelling any of them loses nothing."""

    def __init__(self, ready: deque[Item]) -> None:
        """``ready`` is what is here and with no task; it stays empty as long as tasks wait."""
        self._ready = ready
        self._line: deque[asyncio.Future[Item]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def enter(self) -> asyncio.Future[Item]:
        """Stand in line; the place is for `wait`."""
        place: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        return place

    async def wait(self, place: asyncio.Future[Item]) -> Item:
        """Wait for the next item, or for what `fail` raises."""
        try:
            return await place
        except BaseException:
            if place in self._line:
                self._line.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                self._ready.appendleft(place.result())
                self.hand_out()
            raise

    def hand_out(self) -> None:
        """Give what is ready to those who wait."""
        while self._ready and self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(self._ready.popleft())

    def fail(self, error: Exception) -> None:
        """Send everybody away."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_exception(error)
