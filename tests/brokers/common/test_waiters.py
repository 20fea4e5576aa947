"""Tasks that wait for items: in order, each item once, none lost by a cancelled task."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from django_anyio_channels.brokers.common.waiters import WaiterQueue
from tests.support.layers import anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio


class Queue:
    """Items and the tasks that wait for them."""

    def __init__(self) -> None:
        self.ready: deque[int] = deque()
        self.waiters = WaiterQueue[int](self.ready)
        self.taken: dict[str, int] = {}

    def put(self, *items: int) -> None:
        self.ready.extend(items)
        self.waiters.dispatch()

    def take(self, name: str) -> asyncio.Task[None]:
        """Wait for an item in a task, which is at the end of the queue at once."""
        waiter = self.waiters.join()

        async def wait() -> None:
            self.taken[name] = await self.waiters.wait(waiter)

        return asyncio.ensure_future(wait())


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_task_that_has_waited_longest_gets_the_next_item() -> None:
    queue = Queue()
    tasks = [queue.take(name) for name in "abc"]
    assert len(queue.waiters) == 3
    queue.put(1, 2)
    await asyncio.gather(*tasks[:2])
    assert queue.taken == {"a": 1, "b": 2}
    assert (len(queue.waiters), list(queue.ready)) == (1, [])
    queue.put(3, 4)
    await tasks[2]
    assert (queue.taken["c"], list(queue.ready)) == (3, [4])


async def test_a_task_that_is_cancelled_while_it_waits_leaves_the_queue() -> None:
    queue = Queue()
    tasks = [queue.take(name) for name in "ab"]
    await turn()
    tasks[0].cancel()
    await turn()
    assert len(queue.waiters) == 1
    queue.put(1)
    await tasks[1]
    assert queue.taken == {"b": 1}


async def test_a_waiter_that_was_cancelled_and_has_not_run_yet_is_passed_over() -> None:
    queue = Queue()
    tasks = [queue.take(name) for name in "ab"]
    await turn()
    tasks[0].cancel()
    queue.put(1)
    await tasks[1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert queue.taken == {"b": 1}
    assert not queue.ready


@pytest.mark.parametrize("another_waits", [False, True])
async def test_the_item_of_a_task_that_is_cancelled_goes_to_the_next_or_back(another_waits: bool) -> None:
    queue = Queue()
    first = queue.take("a")
    await turn()
    queue.put(1, 2)
    second = queue.take("b") if another_waits else None
    first.cancel()
    await turn()
    assert first.cancelled()
    if second is None:
        assert list(queue.ready) == [1, 2], "at its place, the head"
    else:
        await second
        assert queue.taken == {"b": 1}
        assert list(queue.ready) == [2]


async def test_failing_one_and_all() -> None:
    queue = Queue()
    assert not queue.waiters.fail_one(ZeroDivisionError())
    tasks = [queue.take(name) for name in "abcd"]
    await turn()
    tasks[0].cancel()
    assert queue.waiters.fail_one(ZeroDivisionError("one")), "not the one that is cancelled"
    queue.waiters.fail_all(ZeroDivisionError("all"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert [str(outcome) for outcome in outcomes[1:]] == ["one", "all", "all"]
    assert len(queue.waiters) == 0
    queue.waiters.fail_all(ZeroDivisionError())


async def test_a_task_that_is_cancelled_when_it_has_failed_puts_nothing_back() -> None:
    queue = Queue()
    task = queue.take("a")
    await turn()
    queue.waiters.fail_all(ZeroDivisionError())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not queue.ready
