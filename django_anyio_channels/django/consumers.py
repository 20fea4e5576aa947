"""What this package must know of Channels' own consumers.

Channels has no `delete_channel`, and reports neither the end of a consumer nor what became of a message. All that a
layer sees of a consumer is a call of ``new_channel()`` by its ``__call__``.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import CodeType
from typing import Any

import channels.utils
from channels import consumer as channels_consumer
from channels import db as channels_db
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from .jobs import Job

_STACK_DEPTH = 32
"""How many frames lie between ``new_channel()`` and a consumer at most."""


def calling_consumer(task: asyncio.Task[Any] | None) -> AsyncConsumer | None:
    """Return the consumer that is asking for its channel name in ``task``, the current one.

    The nearest frame whose first argument is a consumer decides: if it is that of a ``__call__``, the name is the
    consumer's own; if it is that of a handler, the name may be for anything. Frames before it belong to subclasses and
    wrappers of the layer. The code object is not compared: ``__call__`` may be overridden, or replaced by a wrapper.
    """
    # Outside of the task are other callers: an eager task ends before the consumer that started it.
    outermost = None if task is None else getattr(task.get_coro(), "cr_frame", None)
    frame = sys._getframe(1)  # that of `new_channel` itself
    for _ in range(_STACK_DEPTH):
        if frame is outermost or frame.f_back is None:
            break
        frame = frame.f_back
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(first, AsyncConsumer):
            return first if code.co_name == "__call__" else None
    return None


def called_by_channels_loop() -> bool:
    """Return whether the caller's caller is the loop that hands a consumer its messages.

    It makes a task of what it is given, unless that is a future; others may rely on a coroutine.
    """
    return sys._getframe(2).f_code in _CHANNELS_LOOP


_LOOP = channels.utils.await_many_dispatch.__code__
# Up to Python 3.11 a comprehension, by which it asks at its beginning, has code of its own.
_CHANNELS_LOOP = {_LOOP, *(each for each in _LOOP.co_consts if isinstance(each, CodeType))}


def get_handler(consumer: AsyncConsumer, message: Any) -> Any:
    """Return the method that handles a message, or None; raises for a message without a type, as Channels does."""
    return getattr(consumer, channels_consumer.get_handler_name(message), None)


def close_old_connections() -> None:
    """Close database connections of this thread as Channels does; its tools for tests replace the function there."""
    channels_db.close_old_connections()  # type: ignore[attr-defined]


def acknowledge_when_handled(consumer: AsyncConsumer) -> None:
    """Acknowledge each job that a worker's consumer has handled without an error; other consumers get none."""
    if getattr(consumer, "scope", {}).get("type") != "channel":
        return
    dispatch = consumer.dispatch

    async def dispatch_and_acknowledge(message: dict[str, Any]) -> None:
        if not isinstance(message, Job):
            await dispatch(message)
            return
        try:
            await dispatch(message)
        except StopConsumer:
            message.consumer_stopped(handled=True)
            raise
        except BaseException:
            message.consumer_stopped(handled=False)
            raise
        message.ack()

    # On the instance: its class may be anything, and other instances of it have other layers.
    consumer.dispatch = dispatch_and_acknowledge  # type: ignore[method-assign]


class ConsumerLifetime:
    """Calls ``on_end`` in ``loop`` when a consumer has ended: its task is done, or nothing refers to it any more."""

    def __init__(
        self,
        consumer: object,
        task: asyncio.Task[Any] | None,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[], object],
    ) -> None:
        def end(gone: object) -> None:
            with suppress(RuntimeError):  # the loop is closed, and its channels have gone with it
                loop.call_soon_threadsafe(on_end)

        self._end = end
        self._task = task
        self.consumer = weakref.ref(consumer, end)
        if task is not None:
            task.add_done_callback(end)

    def stop(self) -> None:
        """Call ``on_end`` no more."""
        if self._task is not None:
            self._task.remove_done_callback(self._end)
