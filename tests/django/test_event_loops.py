"""One open resource per event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from asgiref.sync import async_to_sync

from django_anyio_channels.django.event_loops import BackgroundLoop, PerLoop, is_passing

TIME_LIMIT = 30.0


class Opener:
    """Counts what it opens and closes; can be told to fail."""

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
    per_loop = PerLoop(opener)

    async def main() -> None:
        assert per_loop.current() is None
        assert await asyncio.gather(*[per_loop.here() for _ in range(5)]) == [1] * 5
        assert per_loop.current() == 1
        assert per_loop.all_open() == [1]
        assert opener.closed == 0

    asyncio.run(main())
    assert (opener.opened, opener.closed) == (1, 1)
    assert per_loop.all_open() == []


def test_what_opening_raises_comes_out_and_the_next_call_tries_again() -> None:
    opener = Opener()
    opener.failures.append(ZeroDivisionError("not today"))
    per_loop = PerLoop(opener)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError, match="not today"):
            await per_loop.here()
        assert await per_loop.here() == 1

    asyncio.run(main())


def test_a_caller_who_is_cancelled_does_not_disturb_the_opening() -> None:
    opener = Opener()
    per_loop = PerLoop(opener)

    async def main() -> None:
        opener.gate = asyncio.Event()
        impatient = asyncio.ensure_future(per_loop.here())
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        opener.gate.set()
        assert await per_loop.here() == 1

    asyncio.run(main())


def test_a_loop_that_ends_while_it_opens_leaves_nothing() -> None:
    opener = Opener()
    per_loop = PerLoop(opener)
    opening: list[asyncio.Future[int]] = []

    async def main() -> None:
        opener.gate = asyncio.Event()
        opening.append(asyncio.ensure_future(per_loop.here()))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert opener.opened == 0
    assert per_loop.all_open() == []


def test_an_error_at_closing_is_told() -> None:
    opener = Opener()
    opener.at_closing.append(ZeroDivisionError("stuck"))
    per_loop = PerLoop(opener)
    told: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        await per_loop.here()

    asyncio.run(main())
    assert [str(context["exception"]) for context in told] == ["stuck"]


def test_closing_here_closes_only_here() -> None:
    opener = Opener()
    per_loop = PerLoop(opener)
    background = BackgroundLoop()
    elsewhere = asyncio.run_coroutine_threadsafe(per_loop.here(), background.loop()).result(TIME_LIMIT)

    async def main() -> None:
        mine = await per_loop.here()
        await per_loop.close_here()
        await per_loop.close_here()
        assert mine != elsewhere
        assert per_loop.all_open() == [elsewhere]
        assert per_loop.elsewhere() is background.loop()
        assert per_loop.loop_of(lambda resource: resource == elsewhere) is background.loop()
        assert per_loop.loop_of(lambda resource: resource == mine) is None

    asyncio.run(main())
    background.stop()
    assert opener.opened == opener.closed == 2


def test_a_loop_that_was_closed_without_a_word_is_forgotten() -> None:
    opener = Opener()
    per_loop = PerLoop(opener)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(per_loop.here())
    # asyncio tells of the task that this leaves behind; it is what this test is about.
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    assert per_loop.all_open() == []
    asyncio.run(per_loop.here())
    del loop
    gc.collect()
    assert per_loop.all_open() == []


def test_a_loop_may_be_collected_while_another_one_is_looked_for() -> None:
    per_loop = PerLoop(Opener())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(per_loop.here())
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    del loop
    with per_loop._lock:
        per_loop._hosted.clear()
        gc.collect()
    assert per_loop.all_open() == []


def test_a_loop_that_was_stopped_is_closed_at_the_end_of_the_process() -> None:
    opener = Opener()
    per_loop = PerLoop(opener)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(per_loop.here())
    per_loop._close_idle_loops()
    assert (opener.opened, opener.closed) == (1, 1)
    loop.close()
    per_loop._close_idle_loops()


def test_visits_are_counted_for_each_loop() -> None:
    per_loop = PerLoop(Opener())

    async def main() -> list[int]:
        return [per_loop.visits() for _ in range(3)]

    assert [asyncio.run(main()) for _ in range(2)] == [[1, 2, 3]] * 2


def test_a_loop_of_async_to_sync_is_passing() -> None:
    async def look() -> bool:
        return is_passing()

    assert async_to_sync(look)()
    assert not asyncio.run(look())


def test_the_background_loop_is_one_for_all_threads_and_can_begin_anew() -> None:
    background = BackgroundLoop()
    background.stop()
    assert background.loop_if_running is None
    loops: list[object] = []
    threads = [threading.Thread(target=lambda: loops.append(background.loop())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME_LIMIT)
    assert len(set(loops)) == 1
    background.stop()
    background.reset()
    assert background.loop() not in loops
    background.stop()


def test_a_forked_child_begins_anew() -> None:
    per_loop = PerLoop(Opener())

    async def main() -> int:
        await per_loop.here()
        child = os.fork()
        if child == 0:
            os._exit(0 if per_loop.all_open() == [] else 1)
        return child

    assert os.waitpid(asyncio.run(main()), 0)[1] == 0


def test_closing_everywhere_reaches_loops_that_run_and_loops_that_pause() -> None:
    opener = Opener()
    per_loop = PerLoop(opener)
    background = BackgroundLoop()
    asyncio.run_coroutine_threadsafe(per_loop.here(), background.loop()).result(TIME_LIMIT)
    paused = asyncio.new_event_loop()
    paused.run_until_complete(per_loop.here())
    per_loop.close_all(TIME_LIMIT)
    assert (opener.opened, opener.closed) == (2, 2)
    assert per_loop.all_open() == []

    async def main() -> None:
        await per_loop.here()
        per_loop.close_all(TIME_LIMIT)  # cannot wait for itself
        assert opener.closed == 2

    asyncio.run(main())
    assert (opener.opened, opener.closed) == (3, 3)
    paused.close()
    background.stop()
