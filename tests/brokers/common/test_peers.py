"""What is published first after an outage waits for the nodes that were there before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from django_anyio_channels.brokers.common.peers import PeerBarrier
from tests.support.layers import TIME_LIMIT, anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def waiting(barrier: PeerBarrier, count: int = 1) -> AsyncIterator[list[bool]]:
    """So many tasks that wait; the list holds one entry for each that has passed."""
    passed: list[bool] = []

    async def wait() -> None:
        await barrier.wait()
        passed.append(True)

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            yield passed
    assert len(passed) == count


def after(*counts: int, timeout: float = TIME_LIMIT) -> PeerBarrier:
    """A barrier in its second session; in the first one it was updated with these counts."""
    barrier = PeerBarrier(timeout)
    barrier.start()
    for count in counts:
        barrier.update(count)
    barrier.start()
    return barrier


async def test_in_its_first_session_a_node_expects_no_others() -> None:
    barrier = PeerBarrier(TIME_LIMIT)
    barrier.start()
    assert not barrier.waiting
    await barrier.wait()


async def test_a_node_that_was_alone_expects_no_others() -> None:
    assert not after(1).waiting
    assert not after(3, 1).waiting, "the last count is what was there"


async def test_all_wait_until_as_many_are_there_as_in_the_last_session() -> None:
    barrier = after(1, 3)
    async with waiting(barrier, 2) as passed:
        for count in (1, 2):
            barrier.update(count)
            await anyio.wait_all_tasks_blocked()
            assert passed == []
            assert barrier.waiting
        barrier.update(3)
    assert not barrier.waiting
    await barrier.wait()
    barrier.update(2)
    assert not barrier.waiting, "a node that leaves later is not waited for"


async def test_a_session_that_ends_too_early_does_not_lower_what_is_expected() -> None:
    barrier = after(3)
    barrier.update(1)
    barrier.start()
    barrier.update(2)
    assert barrier.waiting
    barrier.update(3)
    assert not barrier.waiting


async def test_the_end_of_a_session_lets_all_pass_and_expects_as_many_in_the_next() -> None:
    barrier = after(3)
    async with waiting(barrier, 2):
        barrier.update(1)
        barrier.end()
    assert not barrier.waiting
    barrier.start()
    barrier.update(2)
    assert barrier.waiting
    barrier.update(3)
    barrier.update(2)
    barrier.end()
    barrier.start()
    barrier.update(2)
    assert not barrier.waiting, "the third one had left before"


async def test_released_it_waits_no_more_in_this_session() -> None:
    barrier = after(3)
    async with waiting(barrier):
        barrier.release()
    assert not barrier.waiting


async def test_nodes_that_do_not_come_back_are_waited_for_once() -> None:
    barrier = after(2, timeout=0.01)
    barrier.update(1)
    with anyio.fail_after(TIME_LIMIT):
        await barrier.wait()
    assert not barrier.waiting
    barrier.start()
    assert not barrier.waiting


async def test_the_time_begins_with_the_session() -> None:
    barrier = after(2, timeout=0.0)
    await asyncio.wait_for(barrier.wait(), TIME_LIMIT)
    assert not barrier.waiting
