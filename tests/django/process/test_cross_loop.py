"""`django.process.cross_loop`: calls that one thread submits to another thread's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from django_anyio_channels import ChannelClosed, DeliveryUnknown
from django_anyio_channels.django.process.cross_loop import EventLoopClosed, submit, wait_async, wait_blocking

TIME_LIMIT = 30.0


class OtherThread:
    """An event loop that runs in a thread of its own until `end`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.discarded: list[object] = []
        self.cancels_tasks = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        async def live() -> None:
            self._over = asyncio.Event()
            began.set_result(None)
            await self._over.wait()

        began: asyncio.Future[None] = self.loop.create_future()
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(live())
            tasks = asyncio.all_tasks(self.loop) if self.cancels_tasks else set()
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self.loop.close()

    def release(self) -> None:
        """Return when the loop has done all that it was asked to do before."""
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(TIME_LIMIT)

    def end(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(lambda: self._over.set())
            self._thread.join(TIME_LIMIT)


@pytest.fixture
def other() -> Iterator[OtherThread]:
    other = OtherThread()
    other.release()
    yield other
    other.end()


async def answer() -> int:
    return 42


async def fail() -> int:
    raise ZeroDivisionError("no answer")


async def never() -> int:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("this future never ends")


def test_a_result_and_an_error_come_back_to_a_thread_without_a_loop(other: OtherThread) -> None:
    assert wait_blocking(submit(other.loop, answer, other.discarded.append), TIME_LIMIT) == 42
    with pytest.raises(ZeroDivisionError, match="no answer"):
        wait_blocking(submit(other.loop, fail, other.discarded.append), TIME_LIMIT)
    assert other.discarded == []


def test_a_result_and_an_error_come_back_to_another_loop(other: OtherThread) -> None:
    async def main() -> None:
        future = submit(other.loop, answer, other.discarded.append)
        assert await wait_async(future, other.loop, None, other.discarded.append) == 42
        with pytest.raises(ZeroDivisionError, match="no answer"):
            await wait_async(submit(other.loop, fail), other.loop, None)

    asyncio.run(main())
    assert other.discarded == []


def test_a_blocked_loop_is_reported_after_the_time_limit(other: OtherThread) -> None:
    with pytest.raises(DeliveryUnknown, match=r"did not answer within 0\.01 s; something blocks it"):
        wait_blocking(submit(other.loop, never, other.discarded.append), 0.01)

    async def main() -> None:
        with pytest.raises(DeliveryUnknown, match=r"did not answer within 0\.01 s; something blocks it"):
            await wait_async(submit(other.loop, never), other.loop, 0.01)

    asyncio.run(main())


def test_a_loop_that_ends_meanwhile_is_an_error(other: OtherThread) -> None:
    future = submit(other.loop, never, other.discarded.append)
    other.release()
    other.end()
    with pytest.raises(EventLoopClosed, match="has ended"):
        wait_blocking(future, TIME_LIMIT)
    with pytest.raises(ChannelClosed, match="has ended"):
        submit(other.loop, answer, other.discarded.append)


def test_cancelling_a_call_of_a_closed_loop_is_not_an_error(other: OtherThread) -> None:
    other.cancels_tasks = False
    other.loop.set_exception_handler(lambda loop, context: None)  # asyncio logs the task that is left
    future = submit(other.loop, never, other.discarded.append)
    other.release()
    other.end()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(TIME_LIMIT)


def test_cancelling_cancels_the_call(other: OtherThread) -> None:
    cancelled = threading.Event()

    async def work() -> int:
        try:
            return await never()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    future = submit(other.loop, work, other.discarded.append)
    other.release()
    assert future.cancel()
    assert cancelled.wait(TIME_LIMIT)
    assert other.discarded == []


def test_a_result_that_comes_too_late_is_discarded(other: OtherThread) -> None:
    release = threading.Event()

    async def work() -> int:
        release.wait(TIME_LIMIT)
        return 42

    future = submit(other.loop, work, other.discarded.append)
    assert future.cancel()
    release.set()
    other.release()
    assert other.discarded == [42]


def test_an_error_that_comes_too_late_is_dropped(other: OtherThread) -> None:
    release = threading.Event()

    async def work() -> int:
        release.wait(TIME_LIMIT)
        raise ZeroDivisionError

    future = submit(other.loop, work, other.discarded.append)
    assert future.cancel()
    release.set()
    other.release()
    assert other.discarded == []


@pytest.mark.parametrize(("work", "discarded"), [(answer, [42]), (fail, [])])
def test_a_caller_that_is_cancelled_when_the_result_is_there_loses_nothing(
    other: OtherThread, work: object, discarded: list[int]
) -> None:
    async def main() -> None:
        future = submit(other.loop, work, other.discarded.append)  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(wait_async(future, other.loop, None, other.discarded.append))
        await asyncio.sleep(0)
        other.release()  # the result is there, but this loop has not yet seen it
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    asyncio.run(main())
    other.release()
    assert other.discarded == discarded


def test_a_caller_that_is_cancelled_while_it_waits_cancels_the_call(other: OtherThread) -> None:
    async def main() -> None:
        future = submit(other.loop, never, other.discarded.append)
        waiting = asyncio.ensure_future(wait_async(future, other.loop, None, other.discarded.append))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert future.cancelled()

    asyncio.run(main())
    other.release()
    assert len(asyncio.all_tasks(other.loop)) == 1
