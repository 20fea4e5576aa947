"""Many calls, one round trip."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from ...core.exceptions import DeliveryUnknown, ListenerClosed
from ...core.notifier import Bell, Waiter, waiter_factory

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_IN_A_FLIGHT = 1000


class Batcher(Generic[Item, Result]):
    """Carries the items of concurrent calls together.

    An idle batcher sends an item at once. While one flight is on its way, what arrives is collected and leaves
    together with the next: no delay when idle, few round trips when busy. Items leave in the order of their calls.

    ``fly`` takes the items of one flight and returns one result for each, in their order; a result that is an
    exception is raised by its call alone. If ``fly`` itself raises, every call of the flight raises that.
    """

    def __init__(
        self,
        fly: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        most: int = _MOST_IN_A_FLIGHT,
    ) -> None:
        self._fly = fly
        self._most = most
        self._new_waiter = waiter_factory()
        self._arrival = Bell(self._new_waiter)
        self._queued: deque[_Call[Item, Result]] = deque()
        self._flying: list[_Call[Item, Result]] = []
        self._closed: ListenerClosed | None = None

    async def call(self, item: Item) -> Result:
        """Send one item and return its result.

        A caller that is cancelled disturbs nobody else; its item still flies unless it had not left yet. Raises
        `ListenerClosed` after `close`, which means that the item did not leave; `DeliveryUnknown` if it had left.
        """
        if self._closed is not None:
            raise ListenerClosed(*self._closed.args) from self._closed
        call: _Call[Item, Result] = _Call(item, self._new_waiter())
        self._queued.append(call)
        self._arrival.ring()
        try:
            await call.waiter
        except BaseException:
            call.abandoned = True
            raise
        return call.outcome()

    async def run(self) -> None:
        """Fly, until cancelled or closed. The owner of the batcher keeps one task in here."""
        try:
            while self._closed is None:
                while self._queued and self._closed is None:
                    await self._fly_once()
                if self._closed is None:
                    await self._arrival.wait()
        finally:
            self.close(ListenerClosed("The link is closed"))

    def close(self, error: ListenerClosed) -> None:
        """End every call that waits, and refuse new ones."""
        if self._closed is None:
            self._closed = error
        reason = str(self._closed)
        for call in self._flying:
            call.end(DeliveryUnknown(f"{reason}; the message was on its way, it may have been accepted or not"))
        for call in self._queued:
            call.end(ListenerClosed(reason))
        self._queued.clear()
        self._arrival.ring_all()

    async def _fly_once(self) -> None:
        while self._queued and len(self._flying) < self._most:
            call = self._queued.popleft()
            if not call.abandoned:
                self._flying.append(call)
        flying = self._flying
        if not flying:
            return
        try:
            results = await self._fly([call.item for call in flying])
        except Exception as error:
            for call in flying:
                call.end(error)
        else:
            for call, result in zip(flying, results, strict=True):
                call.end(result)
        self._flying = []


class _Call(Generic[Item, Result]):
    __slots__ = ("abandoned", "item", "result", "waiter")

    def __init__(self, item: Item, waiter: Waiter) -> None:
        self.item = item
        self.waiter = waiter
        self.abandoned = False
        self.result: list[Result | Exception] = []

    def end(self, result: Result | Exception) -> None:
        # A waiter that was cancelled counts as done.
        if not self.waiter.done():
            self.result.append(result)
            self.waiter.set_result(None)

    def outcome(self) -> Result:
        result = self.result[0]
        if isinstance(result, Exception):
            raise result
        return result
