"""Running a coroutine in another thread's event loop, for callers with and without a loop of their own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, TypeVar

from ..core.exceptions import DeliveryUnknown

T = TypeVar("T")


class LoopEnded(DeliveryUnknown):
    """The event loop that was asked to do something ended before it was done."""


def start_in(
    loop: asyncio.AbstractEventLoop, call: Callable[[], Coroutine[Any, Any, T]], undo: Callable[[T], object]
) -> Future[T]:
    """Run ``call`` in ``loop``; cancelling the future cancels it.

    ``undo`` is called there with a result that came too late for a cancelled future. If the loop ends first, the
    future gets a `LoopEnded`. Raises `RuntimeError` if the loop is closed.
    """
    future: Future[T] = Future()

    async def carry() -> None:
        try:
            result = await call()
        except Exception as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            # In the same step as the call itself: nobody may take the next message before this one is put back.
            if future.set_running_or_notify_cancel():
                future.set_result(result)
            else:
                undo(result)

    def start() -> None:
        task = contextvars.Context().run(loop.create_task, carry())
        task.add_done_callback(finish)

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                with suppress(RuntimeError):  # the loop is closed, and with it the task is over
                    loop.call_soon_threadsafe(task.cancel)

        future.add_done_callback(cancel)

    def finish(task: asyncio.Task[None]) -> None:
        if task.cancelled() and not future.done():
            future.set_exception(LoopEnded("The event loop that carried the message ended meanwhile"))

    loop.call_soon_threadsafe(start)
    return future


async def wait_here(
    future: Future[T], loop: asyncio.AbstractEventLoop, undo: Callable[[T], object], timeout: float | None
) -> T:
    """Await what `start_in` returned. Cancelling loses no result: what is there already goes to ``undo``."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
    except asyncio.CancelledError:
        if not future.cancel():
            future.add_done_callback(
                lambda done: None if done.exception() else loop.call_soon_threadsafe(undo, done.result())
            )
        raise
    except asyncio.TimeoutError:
        raise _stuck(timeout) from None


def wait_blocking(future: Future[T], timeout: float) -> T:
    """The same for a thread without a loop."""
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        future.cancel()
        raise _stuck(timeout) from None


def _stuck(timeout: float | None) -> DeliveryUnknown:
    return DeliveryUnknown(
        f"The event loop that carries this process's messages did not answer within {timeout} s; "
        f"something blocks it: look for synchronous code in async functions"
    )
