"""`brokers.common.lookups`: what an event loop does instead of asking an executor that refuses."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from django_anyio_channels.brokers.common.lookups import _LateExecutor, keep_lookups_working

TIME_LIMIT = 30.0


class Ended:
    """The main thread, as other threads see it when it has ended."""

    def is_alive(self) -> bool:
        return False


def test_an_event_loop_keeps_its_executor_while_the_main_thread_lives() -> None:
    async def main() -> int:
        keep_lookups_working()
        return await asyncio.to_thread(threading.get_native_id)

    assert asyncio.run(main()) != threading.get_native_id()


def test_after_the_main_thread_each_call_has_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "main_thread", Ended)
    names: list[str] = []

    def look_up(number: int) -> int:
        names.append(threading.current_thread().name)
        return 10 // number

    async def main() -> None:
        keep_lookups_working()
        assert await asyncio.to_thread(look_up, 5) == 2
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(look_up, 0)

    asyncio.run(main())
    assert names == ["lookup", "lookup"]


def test_a_call_that_was_cancelled_before_its_thread_runs_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    future: Future[None] = _LateExecutor().submit(pytest.fail)
    assert future.cancel()
    started[0].run()
    assert future.cancelled()
