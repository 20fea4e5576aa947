"""The hand-over between two event loops: run a coroutine in another thread's loop, and wait for its result."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import TypeVar

from ..core.exceptions import DeliveryUnknown

T = TypeVar("T")
Loop = asyncio.AbstractEventLoop


class EventLoopClosed(DeliveryUnknown):
    """The event loop that ran a call ended before the call did."""


def _discard(result: object) -> None:
    """The default of ``on_discard``."""


def submit(loop: Loop, call: Callable[[], Awaitable[T]], on_discard: Callable[[T], object] = _discard) -> Future[T]:
    """Run ``call`` in ``loop``; cancelling the future cancels it.

    A result that is too late for a cancelled future goes to ``on_discard``, called in ``loop``. If the loop ends first,
    the future gets an `EventLoopClosed`. Raises `RuntimeError` if the loop is closed.
    """
    future: Future[T] = Future()

    async def run() -> None:
        try:
            result = await call()
        except Exception as error:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            # In the same step as the call itself: a message must be put back before another reader takes the next one.
            if future.set_running_or_notify_cancel():
                future.set_result(result)
            else:
                on_discard(result)

    def start() -> None:
        task = contextvars.Context().run(loop.create_task, run())
        task.add_done_callback(finish)

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                with suppress(RuntimeError):  # the loop is closed, and its tasks have ended with it
                    loop.call_soon_threadsafe(task.cancel)

        future.add_done_callback(cancel)

    def finish(task: asyncio.Task[None]) -> None:
        if task.cancelled() and not future.done():
            future.set_exception(EventLoopClosed("The event loop that carried the message ended meanwhile"))

    loop.call_soon_threadsafe(start)
    return future


async def wait_async(
    future: Future[T], loop: Loop, timeout: float | None, on_discard: Callable[[T], object] = _discard
) -> T:
    """Await the future of `submit`. A result that has come when the caller is cancelled goes to ``on_discard``."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
    except asyncio.CancelledError:
        if not future.cancel():
            future.add_done_callback(
                lambda done: None if done.exception() else loop.call_soon_threadsafe(on_discard, done.result())
            )
        raise
    except TimeoutError:
        raise _blocked(timeout) from None


def wait_blocking(future: Future[T], timeout: float) -> T:
    """`wait_async` for a thread without an event loop."""
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        future.cancel()
        raise _blocked(timeout) from None


def _blocked(timeout: float | None) -> DeliveryUnknown:
    return DeliveryUnknown(
        f"The event loop that carries this process's messages did not answer within {timeout} s; "
        f"something blocks it: look for synchronous code in async functions"
    )
