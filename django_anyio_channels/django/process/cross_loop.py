"""The hand-over between two event loops: run a coroutine in another thread's loop, and wait for its result."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import TypeVar

from ...core.exceptions import ChannelClosed, DeliveryUnknown

T = TypeVar("T")
Loop = asyncio.AbstractEventLoop


class EventLoopClosed(DeliveryUnknown):
    """The event loop that ran a call ended before the call did."""


class EventLoopBlocked(ChannelClosed):
    """The event loop did not begin a call in time, and will not begin it any more; nothing was done."""


class Submission(Future[T]):
    """The result of a call in another event loop."""

    def __init__(self) -> None:
        super().__init__()
        self._claim = threading.Lock()

    def claim(self) -> bool:
        """Return True once: to the event loop, which then makes the call, or to whoever takes the call back."""
        return self._claim.acquire(blocking=False)


def _discard(result: object) -> None:
    """The default of ``on_discard``."""


def submit(loop: Loop, call: Callable[[], Awaitable[T]], on_discard: Callable[[T], object] = _discard) -> Submission[T]:
    """Run ``call`` in ``loop``; cancelling the future cancels it.

    A result that is too late for a cancelled future goes to ``on_discard``, called in ``loop``. If the loop ends first,
    the future gets an `EventLoopClosed`. Raises `ChannelClosed` if the loop is closed.
    """
    future = Submission[T]()

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
        if not future.claim():
            return
        task = contextvars.Context().run(loop.create_task, run())
        task.add_done_callback(finish)

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                with suppress(RuntimeError):  # the loop is closed, and its tasks have ended with it
                    loop.call_soon_threadsafe(task.cancel)

        future.add_done_callback(cancel)

    def finish(task: asyncio.Task[None]) -> None:
        if task.cancelled() and not future.done():
            future.set_exception(EventLoopClosed("The event loop that carried the message has ended"))

    try:
        loop.call_soon_threadsafe(start)
    except RuntimeError as error:
        raise ChannelClosed("The event loop that should carry the message has ended") from error
    return future


async def wait_async(
    future: Submission[T],
    loop: Loop,
    timeout: float | None,
    on_discard: Callable[[T], object] = _discard,
    *,
    patience: float | None = None,
) -> T:
    """Await the future of `submit`. A result that has come when the caller is cancelled goes to ``on_discard``.

    Raises `EventLoopBlocked` if the loop does not begin the call within ``patience`` seconds, or ``timeout``, and
    `DeliveryUnknown` if it has begun but does not end it.
    """
    result = asyncio.wrap_future(future)
    try:
        if patience is not None:
            await asyncio.wait([result], timeout=patience)
            if result.done():
                return result.result()
            _take_back(future, patience)
        return await asyncio.wait_for(result, timeout)
    except asyncio.CancelledError:
        if not future.cancel():
            future.add_done_callback(
                lambda done: None if done.exception() else loop.call_soon_threadsafe(on_discard, done.result())
            )
        raise
    except TimeoutError:
        raise _unanswered(future, timeout) from None


def wait_blocking(future: Submission[T], timeout: float, *, patience: float | None = None) -> T:
    """`wait_async` for a thread without an event loop."""
    if patience is not None:
        with suppress(FutureTimeoutError):
            return future.result(patience)
        _take_back(future, patience)
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        raise _unanswered(future, timeout) from None


def _take_back(future: Submission[T], seconds: float | None) -> None:
    """Raise `EventLoopBlocked` unless the loop has begun the call."""
    if future.claim():
        future.cancel()
        raise EventLoopBlocked(
            f"An event loop of this process took no call within {seconds} s; something blocks it: look for synchronous "
            f"code in async functions"
        )


def _unanswered(future: Submission[T], seconds: float | None) -> DeliveryUnknown:
    """Cancel a call that takes too long, and return the error for its caller."""
    _take_back(future, seconds)
    future.cancel()
    return DeliveryUnknown(
        f"The event loop that carries this process's messages did not answer within {seconds} s; "
        f"something blocks it: look for synchronous code in async functions"
    )
