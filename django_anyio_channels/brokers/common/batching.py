"""Concurrent calls share a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar, cast

from ...core.exceptions import DeliveryUnknown, ListenerClosed

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_ITEMS = 1000


class Batcher(Generic[Item, Result]):
    """Sends the items of concurrent calls together, those with the same key in the order of their calls.

    While a batch of a key is in flight, new items of that key are collected for the next one: no delay when idle, few
    round trips when busy. A batch has at most ``max_items`` and, unless it is a single item, ``max_bytes``.

    ``flush`` takes the items of one batch, all with the same key, and returns one result for each, in their order; a
    result that is an exception is raised by its call alone. If ``flush`` itself raises, every call of the batch raises
    that. A ``pipelined`` flush sends before it first waits and may be cancelled then: a lone item is sent in the task
    of its caller, and a full batch does not wait for the answer to the one before.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_items: int = _MAX_ITEMS,
        max_bytes: float = float("inf"),
        pipelined: bool = False,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._pipelined = pipelined
        self._lanes: dict[Hashable, _Lane[Item, Result]] = {}
        """Those with something queued or in flight."""
        self._in_flight: set[_Batch[Item, Result]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._crowded = False
        """Whether the last batch had several items; then the next call waits one turn of the event loop for others."""
        self._error: ListenerClosed | None = None
        self._closed = asyncio.Event()

    async def call(self, item: Item, key: Hashable = None, size: int = 0) -> Result:
        """Send one item of ``size`` bytes and return its result.

        Cancelling a call does not affect others. An item that is still queued is discarded; one in flight is still
        sent. Raises `ListenerClosed` after `close` if the item was not sent, `DeliveryUnknown` if it was in flight.
        """
        if self._error is not None:
            raise ListenerClosed(*self._error.args) from self._error
        lane = self._lanes.get(key)
        alone = lane is None and self._pipelined and not self._crowded
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        result = await (self._send_alone(lane, item) if alone else self._enqueue(lane, item, size))
        if isinstance(result, Exception):
            raise result
        return result

    async def run(self) -> None:
        """Wait until `close` is called and what is in flight is answered. Close, and end that, when cancelled."""
        try:
            await self._closed.wait()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self.close(ListenerClosed("The connection is closed"))
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def close(self, error: ListenerClosed) -> None:
        """Fail every waiting call, and refuse new ones."""
        if self._error is None:
            self._error = error
        reason = str(self._error)
        for batch in self._in_flight:
            batch.fail(DeliveryUnknown(f"{reason}; the message was on its way, it may have been accepted or not"))
        for lane in self._lanes.values():
            for batch in lane.queued:
                batch.fail(ListenerClosed(reason))
            lane.queued.clear()
        self._closed.set()

    def _enqueue(self, lane: _Lane[Item, Result], item: Item, size: int) -> asyncio.Future[Result | Exception]:
        batch = lane.queued[-1] if lane.queued else None
        if batch is None or len(batch.calls) >= self._max_items or batch.size + size > self._max_bytes:
            if not lane.senders or (batch is not None and self._pipelined):
                self._start(lane)
            batch = _Batch()
            lane.queued.append(batch)
        future: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        batch.calls[future] = item
        batch.size += size
        return future

    def _start(self, lane: _Lane[Item, Result]) -> None:
        lane.senders += 1
        task = asyncio.get_running_loop().create_task(self._send_queued(lane))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, lane))

    async def _send_queued(self, lane: _Lane[Item, Result]) -> None:
        try:
            while lane.queued:
                batch = lane.queued.pop(0)
                self._in_flight.add(batch)
                try:
                    await self._send(batch)
                finally:
                    self._in_flight.discard(batch)
        finally:
            self._finished(lane)
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _send(self, batch: _Batch[Item, Result]) -> None:
        calls = batch.waiting()
        if not calls:
            return
        self._crowded = len(calls) > 1
        try:
            results = await self._flush(list(calls.values()))
        except Exception as error:
            batch.fail(error)
        except asyncio.CancelledError:
            batch.fail(ListenerClosed("the task that published was cancelled"))
            raise
        else:
            for future, result in zip(calls, results, strict=True):
                if not future.done():
                    future.set_result(result)
        # A caller that was answered may call again: one task for several batches is cheaper than one for each.
        await asyncio.sleep(0)

    async def _send_alone(self, lane: _Lane[Item, Result], item: Item) -> Result | Exception:
        lane.senders += 1
        try:
            return (await self._flush([item]))[0]
        finally:
            self._finished(lane)

    def _finished(self, lane: _Lane[Item, Result]) -> None:
        lane.senders -= 1
        if lane.queued:
            self._start(lane)
        elif not lane.senders:
            del self._lanes[lane.key]

    def _ended(self, lane: _Lane[Item, Result], task: asyncio.Task[None]) -> None:
        # Closing an event loop cancels every task, also one that has not begun; other tasks may still publish while
        # they clean up.
        if task in self._tasks:
            self._tasks.discard(task)
            self._finished(lane)


class _Lane(Generic[Item, Result]):
    """The batches of one key."""

    __slots__ = ("key", "queued", "senders")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.queued: list[_Batch[Item, Result]] = []
        self.senders = 0
        """How many tasks send them."""


class _Batch(Generic[Item, Result]):
    """Calls that are to be sent together."""

    __slots__ = ("calls", "size")

    def __init__(self) -> None:
        self.calls: dict[asyncio.Future[Result | Exception], Item] = {}
        self.size = 0
        """Bytes."""

    def waiting(self) -> dict[asyncio.Future[Result | Exception], Item]:
        """Return the calls that have no result and were not cancelled."""
        return {future: item for future, item in self.calls.items() if not future.done()}

    def fail(self, error: Exception) -> None:
        for future in self.waiting():
            future.set_result(error)
