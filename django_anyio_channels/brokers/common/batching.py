"""Concurrent calls share a round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

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
        self._tasks: dict[asyncio.Task[None], _Batch[Item, Result]] = {}
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
        result = (await self._send(lane, [item]))[0] if alone else await self._enqueue(lane, item, size)
        if isinstance(result, Exception):
            raise result
        return result

    async def run(self) -> None:
        """Wait until `close` is called and what is in flight is answered. Close, and end that, when cancelled."""
        try:
            await self._closed.wait()
            await self._wait_for_tasks()
        finally:
            self.close(ListenerClosed("The connection is closed"))
            for task in self._tasks:
                task.cancel()
            await self._wait_for_tasks()

    def close(self, error: ListenerClosed) -> None:
        """Fail every waiting call, and refuse new ones."""
        if self._error is None:
            self._error = error
        reason = str(self._error)
        unknown = DeliveryUnknown(f"{reason}; the message was on its way, it may have been accepted or not")
        for batch in self._tasks.values():
            batch.fail(unknown if batch.in_flight else ListenerClosed(reason))
            batch.ready.set()
        self._closed.set()

    async def _wait_for_tasks(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ---- batches ------------------------------------------------------------------------------------------------

    def _enqueue(self, lane: _Lane[Item, Result], item: Item, size: int) -> asyncio.Future[Result | Exception]:
        batch = lane.queued[-1] if lane.queued else None
        if batch is None or len(batch.calls) >= self._max_items or batch.size + size > self._max_bytes:
            if batch is not None and self._pipelined:
                batch.ready.set()
            batch = _Batch()
            lane.queued.append(batch)
            self._start(lane, batch)
            self._advance(lane)
        return batch.add(item, size)

    def _start(self, lane: _Lane[Item, Result], batch: _Batch[Item, Result]) -> None:
        task = asyncio.create_task(self._flush_batch(lane, batch))
        self._tasks[task] = batch
        task.add_done_callback(partial(self._ended, lane, batch))

    async def _flush_batch(self, lane: _Lane[Item, Result], batch: _Batch[Item, Result]) -> None:
        await batch.ready.wait()
        lane.queued.remove(batch)
        batch.in_flight = True
        calls = batch.waiting()
        if not calls:
            self._advance(lane)
            return
        try:
            results = await self._send(lane, list(calls.values()))
        except Exception as error:
            batch.fail(error)
        else:
            for future, result in zip(calls, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _send(self, lane: _Lane[Item, Result], items: list[Item]) -> Sequence[Result | Exception]:
        self._crowded = len(items) > 1
        lane.in_flight += 1
        try:
            return await self._flush(items)
        finally:
            lane.in_flight -= 1
            if lane.queued or lane.in_flight:
                self._advance(lane)
            else:
                del self._lanes[lane.key]

    def _advance(self, lane: _Lane[Item, Result]) -> None:
        """Have the next batch sent if none is in flight."""
        if lane.in_flight:
            return
        if lane.queued:
            lane.queued[0].ready.set()
        else:
            del self._lanes[lane.key]

    def _ended(self, lane: _Lane[Item, Result], batch: _Batch[Item, Result], task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            return
        # Closing an event loop cancels every task, this one too; other tasks may still publish while they clean up.
        if batch.in_flight:
            batch.fail(ListenerClosed("the task that published was cancelled"))
        elif batch.waiting():
            self._start(lane, batch)
        else:
            lane.queued.remove(batch)
            self._advance(lane)


class _Batch(Generic[Item, Result]):
    """Calls that are to be sent together."""

    def __init__(self) -> None:
        self.calls: dict[asyncio.Future[Result | Exception], Item] = {}
        self.size = 0
        """Bytes."""
        self.ready = asyncio.Event()
        """Set when the batch may be sent."""
        self.in_flight = False

    def add(self, item: Item, size: int) -> asyncio.Future[Result | Exception]:
        future: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        self.calls[future] = item
        self.size += size
        return future

    def waiting(self) -> dict[asyncio.Future[Result | Exception], Item]:
        """Return the calls that have no result and were not cancelled."""
        return {future: item for future, item in self.calls.items() if not future.done()}

    def fail(self, error: Exception) -> None:
        for future in self.waiting():
            future.set_result(error)


class _Lane(Generic[Item, Result]):
    """The batches of one key."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.queued: deque[_Batch[Item, Result]] = deque()
        self.in_flight = 0
        """How many batches are in flight."""
