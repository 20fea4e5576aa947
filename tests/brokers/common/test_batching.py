"""Many calls, one round trip: `django_anyio_channels.brokers.common.batching`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from django_anyio_channels.brokers.common.batching import Batcher
from django_anyio_channels.core.exceptions import DeliveryUnknown, ListenerClosed, PayloadTooLarge
from tests.support.layers import anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio


class Server:
    """Answers batches when a test lets it."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[int]] = []
        self.may_answer = anyio.Event()
        self.batcher: Batcher[int, str] = Batcher(self.flush, **{"max_items": 5, **options})
        self.results: dict[int, str] = {}

    async def flush(self, items: list[int]) -> Sequence[str | Exception]:
        self.batches.append(items)
        await self.may_answer.wait()
        if 666 in items:
            raise ZeroDivisionError
        return [PayloadTooLarge("too large") if item > 99 else str(item) for item in items]

    async def received(self, count: int) -> None:
        with anyio.fail_after(30):
            while len(self.batches) < count:
                await checkpoint()

    async def call(self, item: int, key: str | None = None, size: int = 0) -> None:
        self.results[item] = await self.batcher.call(item, key, size)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.batcher.run)
            yield
            tasks.cancel_scope.cancel()


async def settle() -> None:
    for _ in range(10):
        await checkpoint()


async def test_what_arrives_during_a_batch_is_sent_together_in_order() -> None:
    server = Server()
    async with server.open(), anyio.create_task_group() as callers:
        callers.start_soon(server.call, 0)
        await server.received(1)
        for item in range(1, 8):
            callers.start_soon(server.call, item)
            await settle()
        assert server.batches == [[0]]
        server.may_answer.set()
    assert server.batches == [[0], [1, 2, 3, 4, 5], [6, 7]]
    assert server.results == {item: str(item) for item in range(8)}


async def test_a_cancelled_call_affects_no_other_and_is_discarded_if_queued() -> None:
    server = Server()
    async with server.open(), anyio.create_task_group() as callers:
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(server.call, 1)
            await settle()
            callers.start_soon(server.call, 2)
            await server.received(1)
            cancelled.start_soon(server.call, 3)
            callers.start_soon(server.call, 4)
            await settle()
            cancelled.cancel_scope.cancel()
        server.may_answer.set()
    assert [sorted(batch) for batch in server.batches] == [[1], [2, 4]]
    assert sorted(server.results.values()) == ["2", "4"]


async def test_nothing_is_sent_for_calls_that_were_all_cancelled() -> None:
    server = Server()
    async with server.open(), anyio.create_task_group() as callers:
        callers.start_soon(server.batcher.call, 1)
        await server.received(1)
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(server.batcher.call, 2)
            await settle()
            cancelled.cancel_scope.cancel()
        server.may_answer.set()
        await settle()
        assert await server.batcher.call(3) == "3"
    assert server.batches == [[1], [3]]


async def test_calls_that_follow_each_other_share_a_task() -> None:
    tasks: set[object] = set()

    async def flush(items: list[int]) -> list[int]:
        tasks.add(asyncio.current_task())
        return items

    batcher: Batcher[int, int] = Batcher(flush)
    assert [await batcher.call(item) for item in range(3)] == [0, 1, 2]
    assert len(tasks) == 1
    await settle()
    assert not batcher._tasks


@pytest.mark.parametrize("pipelined", [False, True])
async def test_an_exception_among_the_results_is_its_own_call_s(pipelined: bool) -> None:
    server = Server(pipelined=pipelined)
    server.may_answer.set()
    async with server.open():
        with pytest.raises(PayloadTooLarge):
            await server.batcher.call(100)
        with pytest.raises(ZeroDivisionError):
            await server.batcher.call(666)
        assert await server.batcher.call(1) == "1"


async def test_closing_distinguishes_in_flight_and_queued() -> None:
    server = Server()
    errors: dict[int, ListenerClosed] = {}

    async def call(item: int) -> None:
        try:
            await server.batcher.call(item)
        except ListenerClosed as error:
            errors[item] = error

    async with anyio.create_task_group() as tasks, server.open():
        tasks.start_soon(call, 1)
        await server.received(1)
        tasks.start_soon(call, 2)
        await settle()
        server.batcher.close(ListenerClosed("redis://elsewhere is gone"))
        await settle()
        tasks.start_soon(call, 3)
        await settle()
    assert isinstance(errors[1], DeliveryUnknown)
    assert not isinstance(errors[2], DeliveryUnknown)
    assert all("redis://elsewhere is gone" in str(error) for error in errors.values()), errors
    assert set(errors) == {1, 2, 3}


async def test_a_closed_batcher_ends_when_what_is_in_flight_is_answered() -> None:
    server = Server()
    async with anyio.create_task_group() as tasks:
        running = asyncio.ensure_future(server.batcher.run())
        call = asyncio.ensure_future(server.batcher.call(1))
        await server.received(1)
        server.batcher.close(ListenerClosed("closed"))
        with pytest.raises(DeliveryUnknown):
            await call
        assert not running.done()
        server.may_answer.set()
        tasks.start_soon(asyncio.wait_for, running, 30)


async def test_cancelling_what_runs_it_ends_what_is_in_flight() -> None:
    server = Server()
    async with server.open():
        call = asyncio.ensure_future(server.batcher.call(1))
        await server.received(1)
    with pytest.raises(DeliveryUnknown, match="The connection is closed"):
        await call


async def test_keys_do_not_wait_for_each_other() -> None:
    server = Server()
    async with server.open(), anyio.create_task_group() as callers:
        for item, key in enumerate("abab"):
            callers.start_soon(server.call, item, key)
            await settle()
        assert server.batches == [[0], [1]]
        server.may_answer.set()
    assert server.batches == [[0], [1], [2], [3]]


async def test_a_batch_is_limited_in_bytes_unless_it_is_one_item() -> None:
    server = Server(max_bytes=10)
    async with server.open(), anyio.create_task_group() as callers:
        for item, size in enumerate((1, 100, 1, 9, 1, 1)):
            callers.start_soon(server.call, item, None, size)
            await settle()
        server.may_answer.set()
    assert server.batches == [[0], [1], [2, 3], [4, 5]]


# ---- pipelined ---------------------------------------------------------------------------------------------------


async def test_a_full_batch_follows_the_one_in_flight_at_once() -> None:
    server = Server(pipelined=True)
    async with anyio.create_task_group() as callers:
        for item in range(8):
            callers.start_soon(server.call, item)
        await settle()
        assert server.batches == [[0], [1, 2, 3, 4, 5]]
        server.may_answer.set()
    assert server.batches[2:] == [[6, 7]]
    assert server.results == {item: str(item) for item in range(8)}


async def test_a_lone_item_is_sent_at_once_by_the_task_of_its_caller() -> None:
    server = Server(pipelined=True)
    call = server.batcher.call(1)
    call.send(None)
    assert server.batches == [[1]]
    with suppress(asyncio.CancelledError):
        call.throw(asyncio.CancelledError())
    server.may_answer.set()
    assert await server.batcher.call(2) == "2"


async def test_after_a_batch_of_several_calls_wait_one_turn_for_others() -> None:
    server = Server(pipelined=True)
    server.may_answer.set()
    for _ in range(2):
        await asyncio.gather(*(server.call(item) for item in range(3)))
        await server.call(9)
    assert server.batches == [[0], [1, 2], [9], [0], [1, 2], [9]]
    await asyncio.gather(*(server.call(item) for item in range(3)))
    await asyncio.gather(*(server.call(item) for item in range(3)))
    assert server.batches[6:] == [[0], [1, 2], [0, 1, 2]]


def cancel_tasks_of(batcher: Batcher[int, str]) -> None:
    """What the end of an event loop does."""
    for task in batcher._tasks:
        task.cancel()


async def test_calls_whose_batch_was_cancelled_in_flight() -> None:
    server = Server(pipelined=True)
    calls = [asyncio.ensure_future(server.batcher.call(item)) for item in range(3)]
    await settle()
    server.may_answer.set()
    assert await calls[0] == "0"
    await settle()
    server.may_answer = anyio.Event()
    calls = [asyncio.ensure_future(server.batcher.call(item)) for item in range(3)]
    await settle()
    calls[1].cancel()
    cancel_tasks_of(server.batcher)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in outcomes] == [ListenerClosed, asyncio.CancelledError, ListenerClosed]
    server.may_answer.set()
    assert await server.batcher.call(3) == "3"


async def test_a_batch_that_was_cancelled_before_it_began_is_sent_if_a_call_waits() -> None:
    server = Server(pipelined=True)
    server.may_answer.set()
    await asyncio.gather(*(server.call(item) for item in range(3)))
    calls = [asyncio.ensure_future(server.batcher.call(item, key)) for item, key in ((1, "a"), (2, "a"), (3, "b"))]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[2].cancel()
    cancel_tasks_of(server.batcher)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1] == "2"
    assert await server.batcher.call(4, "b") == "4"
    assert server.batches == [[0], [1, 2], [2], [4]]
