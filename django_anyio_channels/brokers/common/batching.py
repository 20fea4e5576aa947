"""Concurrent calls share a round trip."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from ...core.exceptions import DeliveryUnknown, ListenerClosed
from ...core.notifier import Notifier, Waiter, waiter_type

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_ITEMS = 1000


class Batcher(Generic[Item, Result]):
    """Sends the items of concurrent calls together.

    An idle batcher sends an item at once. While a batch is in flight, new items are collected for the next one: no
    delay when idle, few round trips when busy. Items are sent in the order of their calls.

    ``flush`` takes the items of one batch and returns one result for each, in their order; a result that is an
    exception is raised by its call alone. If ``flush`` itself raises, every call of the batch raises that.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_items: int = _MAX_ITEMS,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._new_waiter = waiter_type()
        self._arrival = Notifier(self._new_waiter)
        self._queued: deque[_Call[Item, Result]] = deque()
        self._in_flight: list[_Call[Item, Result]] = []
        self._closed: ListenerClosed | None = None

    async def call(self, item: Item) -> Result:
        """Send one item and return its result.

        Cancelling a call does not affect others. An item that is still queued is discarded; one in flight is still
        sent. Raises `ListenerClosed` after `close` if the item was not sent, `DeliveryUnknown` if it was in flight.
        """
        if self._closed is not None:
            raise ListenerClosed(*self._closed.args) from self._closed
        call: _Call[Item, Result] = _Call(item, self._new_waiter())
        self._queued.append(call)
        self._arrival.notify()
        try:
            await call.waiter
        except BaseException:
            call.abandoned = True
            raise
        return call.outcome()

    async def run(self) -> None:
        """Send batches until cancelled or closed. Run in exactly one task."""
        try:
            while self._closed is None:
                while self._queued and self._closed is None:
                    await self._flush_batch()
                if self._closed is None:
                    await self._arrival.wait()
        finally:
            self.close(ListenerClosed("The connection is closed"))

    def close(self, error: ListenerClosed) -> None:
        """Fail every waiting call, and refuse new ones."""
        if self._closed is None:
            self._closed = error
        reason = str(self._closed)
        for call in self._in_flight:
            call.end(DeliveryUnknown(f"{reason}; the message was on its way, it may have been accepted or not"))
        for call in self._queued:
            call.end(ListenerClosed(reason))
        self._queued.clear()
        self._arrival.notify_all()

    async def _flush_batch(self) -> None:
        while self._queued and len(self._in_flight) < self._max_items:
            call = self._queued.popleft()
            if not call.abandoned:
                self._in_flight.append(call)
        in_flight = self._in_flight
        if not in_flight:
            return
        try:
            results = await self._flush([call.item for call in in_flight])
        except Exception as error:
            for call in in_flight:
                call.end(error)
        else:
            for call, result in zip(in_flight, results, strict=True):
                call.end(result)
        self._in_flight = []


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
