"""`django.process.event_loops`: one open resource for each event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager

import pytest
from asgiref.sync import async_to_sync

from django_anyio_channels.django.process import event_loops
from django_anyio_channels.django.process.background_loop import BackgroundLoop, background
from django_anyio_channels.django.process.event_loops import LoopLocal, is_async_to_sync_loop, open_in_idle_loops

TIME_LIMIT = 30.0


@pytest.fixture(autouse=True)
def _resources_end_with_the_test() -> Iterator[None]:
    """What stays open until the garbage collector comes is no node, and the nodes of later tests would ask it."""
    yield
    gc.collect()


class Opener:
    """Counts what it opens and closes; fails on request."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.failures: list[Exception] = []
        self.at_closing: list[Exception] = []
        self.gate: asyncio.Event | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[int, None]:
        if self.failures:
            raise self.failures.pop()
        if self.gate is not None:
            await self.gate.wait()
        self.opened += 1
        try:
            yield self.opened
        finally:
            self.closed += 1
            if self.at_closing:
                raise self.at_closing.pop()


def test_a_loop_opens_once_and_closes_with_its_end() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)

    async def main() -> None:
        assert loop_local.current() is None
        assert await asyncio.gather(*[loop_local.get_or_open() for _ in range(5)]) == [1] * 5
        assert loop_local.current() == 1
        assert loop_local.all_open() == [1]
        assert opener.closed == 0

    asyncio.run(main())
    assert (opener.opened, opener.closed) == (1, 1)
    assert loop_local.all_open() == []


def test_what_opening_raises_comes_out_and_the_next_call_tries_again() -> None:
    opener = Opener()
    opener.failures.append(ZeroDivisionError("not today"))
    loop_local = LoopLocal(opener)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError, match="not today"):
            await loop_local.get_or_open()
        assert await loop_local.get_or_open() == 1

    asyncio.run(main())


def test_a_cancelled_caller_does_not_disturb_the_opening() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)

    async def main() -> None:
        opener.gate = asyncio.Event()
        cancelled = asyncio.ensure_future(loop_local.get_or_open())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        opener.gate.set()
        assert await loop_local.get_or_open() == 1

    asyncio.run(main())


def test_a_loop_that_ends_while_it_opens_leaves_nothing() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)
    opening: list[asyncio.Future[int]] = []

    async def main() -> None:
        opener.gate = asyncio.Event()
        opening.append(asyncio.ensure_future(loop_local.get_or_open()))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert opener.opened == 0
    assert loop_local.all_open() == []


def test_an_error_at_closing_is_reported() -> None:
    opener = Opener()
    opener.at_closing.append(ZeroDivisionError("stuck"))
    loop_local = LoopLocal(opener)
    reported: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        await loop_local.get_or_open()

    asyncio.run(main())
    assert [str(context["exception"]) for context in reported] == ["stuck"]


def test_closing_closes_the_running_loops_only() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)
    own = BackgroundLoop()
    elsewhere = asyncio.run_coroutine_threadsafe(loop_local.get_or_open(), own.loop()).result(TIME_LIMIT)

    async def main() -> None:
        mine = await loop_local.get_or_open()
        await loop_local.close_current()
        await loop_local.close_current()
        assert mine != elsewhere
        assert loop_local.all_open() == [elsewhere]
        assert loop_local.any_other() is own.loop()
        assert loop_local.resources == {own.loop(): elsewhere}

    asyncio.run(main())
    own.stop()
    assert opener.opened == opener.closed == 2


def test_a_loop_that_was_closed_with_tasks_is_forgotten() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop_local.get_or_open())
    # asyncio logs the task that this leaves behind; it is what this test is about.
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    assert loop_local.all_open() == []
    asyncio.run(loop_local.get_or_open())
    del loop
    gc.collect()
    assert loop_local.all_open() == []


def test_a_loop_may_be_collected_while_another_one_is_looked_for() -> None:
    loop_local = LoopLocal(Opener())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop_local.get_or_open())
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    del loop
    with loop_local._lock:
        loop_local._entries.clear()
        gc.collect()
    assert loop_local.all_open() == []


def test_a_loop_that_was_stopped_is_closed_at_the_end_of_the_process() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop_local.get_or_open())
    loop_local._close_idle_loops()
    assert (opener.opened, opener.closed) == (1, 1)
    loop.close()
    loop_local._close_idle_loops()


def test_calls_are_counted_for_each_loop() -> None:
    loop_local = LoopLocal(Opener())

    async def main() -> list[int]:
        return [loop_local.call_count() for _ in range(3)]

    assert [asyncio.run(main()) for _ in range(2)] == [[1, 2, 3]] * 2


def test_a_loop_of_async_to_sync_is_async_to_sync_loop() -> None:
    async def look() -> bool:
        return is_async_to_sync_loop()

    assert async_to_sync(look)()
    assert not asyncio.run(look())


def test_resources_in_loops_that_do_not_run_are_known_until_they_are_collected() -> None:
    loop_local, other = LoopLocal(Opener()), LoopLocal(Opener())
    paused, closed = asyncio.new_event_loop(), asyncio.new_event_loop()
    names = {id(paused): "paused", id(closed): "closed"}
    for loop in (paused, closed):
        loop.run_until_complete(loop_local.get_or_open())
        loop.set_exception_handler(lambda loop, context: None)
    closed.close()
    del loop

    async def found() -> list[tuple[str, int]]:
        await other.get_or_open()
        return [(name, resource) for loop, resource in open_in_idle_loops() if (name := names.get(id(loop)))]

    assert asyncio.run(found()) == [("paused", 1), ("closed", 2)]
    loop_local._close_idle_loops()
    assert asyncio.run(found()) == [("closed", 2)]
    del closed
    asyncio.run(loop_local.get_or_open())
    gc.collect()
    asyncio.run(other.get_or_open())
    assert len(event_loops._all_entries) == sum(entry() is not None for entry in event_loops._all_entries.values())
    paused.close()


def test_a_blocked_loop_is_passed_over_until_it_has_time() -> None:
    loop_local = LoopLocal(Opener())
    other = BackgroundLoop()
    asyncio.run_coroutine_threadsafe(loop_local.get_or_open(), other.loop()).result(TIME_LIMIT)
    go_on = threading.Event()
    other.loop().call_soon_threadsafe(go_on.wait, TIME_LIMIT)
    assert loop_local.any_other() is other.loop()
    loop_local.set_blocked(other.loop())
    assert loop_local.any_other() is background.loop()
    go_on.set()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), other.loop()).result(TIME_LIMIT)
    assert loop_local.any_other() is other.loop()
    ended = other.loop()
    other.stop()
    loop_local.set_blocked(ended)
    assert loop_local.any_other() is background.loop()


def test_a_loop_that_ends_while_it_is_set_blocked() -> None:
    loop_local = LoopLocal(Opener())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(loop_local.get_or_open())
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    loop_local.set_blocked(loop)


def test_a_forked_child_has_no_resources() -> None:
    loop_local = LoopLocal(Opener())

    async def main() -> int:
        await loop_local.get_or_open()
        child = os.fork()
        if child == 0:
            os._exit(0 if loop_local.all_open() == [] else 1)
        return child

    assert os.waitpid(asyncio.run(main()), 0)[1] == 0


def test_closing_soon_reaches_loops_that_run_pause_and_are_closed() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)
    background = BackgroundLoop()
    paused, closed = asyncio.new_event_loop(), asyncio.new_event_loop()
    for loop in (paused, closed):
        loop.run_until_complete(loop_local.get_or_open())
    asyncio.run_coroutine_threadsafe(loop_local.get_or_open(), background.loop()).result(TIME_LIMIT)
    closed_task = loop_local._entries[closed].task
    closed.close()
    loop_local.close_soon()
    background.stop()
    assert opener.closed == 1
    task = loop_local._entries[paused].task
    paused.run_until_complete(asyncio.wait([task]))
    assert opener.closed == 2
    paused.close()
    closed_task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_closing_everywhere_reaches_loops_that_run_and_loops_that_pause() -> None:
    opener = Opener()
    loop_local = LoopLocal(opener)
    own = BackgroundLoop()
    asyncio.run_coroutine_threadsafe(loop_local.get_or_open(), own.loop()).result(TIME_LIMIT)
    paused = asyncio.new_event_loop()
    paused.run_until_complete(loop_local.get_or_open())
    loop_local.close_all(TIME_LIMIT)
    assert (opener.opened, opener.closed) == (2, 2)
    assert loop_local.all_open() == []

    async def main() -> None:
        await loop_local.get_or_open()
        loop_local.close_all(TIME_LIMIT)  # cannot wait for itself
        assert opener.closed == 2

    asyncio.run(main())
    assert (opener.opened, opener.closed) == (3, 3)
    paused.close()
    own.stop()


def test_a_blocked_loop_keeps_no_other_one_open_and_all_blocked_ones_are_waited_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opener, blocked, other = Opener(), BackgroundLoop(), BackgroundLoop()
    first, second = LoopLocal(opener), LoopLocal(opener)
    for loop_local in (first, second):
        for loop in (blocked, other):
            asyncio.run_coroutine_threadsafe(loop_local.get_or_open(), loop.loop()).result(TIME_LIMIT)
    go_on = threading.Event()
    blocked.loop().call_soon_threadsafe(go_on.wait, TIME_LIMIT)
    with pytest.raises(TimeoutError, match=r"within 0\.05 s; something blocks it"):
        first.close_all(0.05)
    late = time.monotonic() + TIME_LIMIT
    while len(first._entries) > 1 and time.monotonic() < late:
        time.sleep(0.001)
    waits: list[int] = []

    def wait(futures: list[Future[None]], seconds: float) -> None:
        waits.append(len(futures))

    monkeypatch.setattr(event_loops, "_all_loop_locals", [first, second])
    monkeypatch.setattr(event_loops, "wait", wait)
    monkeypatch.setattr(event_loops, "background", BackgroundLoop())
    event_loops.close_everything()
    assert waits == [3]
    go_on.set()
    for loop in (blocked, other):
        loop.stop()
    assert (opener.opened, opener.closed) == (4, 4)
