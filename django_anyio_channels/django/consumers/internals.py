"""What this package must know of Channels' own consumers.

Channels has no `delete_channel`, and reports neither the end of a consumer nor what became of a message. All that a
layer sees of a consumer is a call of ``new_channel()`` by its ``__call__``.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import channels.utils
from channels import consumer as channels_consumer
from channels import db as channels_db
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from .default_handlers import default_handler
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


_LONGEST_KIND = 200
"""Characters of the types of messages whose handlers' names are remembered."""

_LOOP = channels.utils.await_many_dispatch.__code__


Receive = Callable[[], Awaitable[Any]]
MOST_JOBS_AHEAD = 32
"""How many jobs without acknowledgement wait for a worker's consumer, taken from their channel already."""
CLIENT, CHANNEL = 0, 1
"""Where the two futures of the next messages are that Channels' loop waits for."""


@dataclass(frozen=True)
class ChannelsLoop:
    """What Channels' loop works with. It changes none of it while it awaits a consumer's ``dispatch``."""

    receive: Receive
    """Receives from the client."""
    tasks: list[asyncio.Future[Any]]
    """The futures of the next messages; those in this list are cancelled when the loop ends."""
    position: int
    """Which of them had the message that is being dispatched."""


def calling_loop(consumer: AsyncConsumer | None) -> ChannelsLoop | None:
    """Return Channels' loop if it is what awaits the caller, with a consumer's client and channel."""
    frame = sys._getframe(1).f_back
    if frame is None or frame.f_code is not _LOOP:
        return None
    receivers = frame.f_locals["consumer_callables"]
    if len(receivers) != 2 or receivers[CHANNEL] is not getattr(consumer, "channel_receive", None):
        return None
    return ChannelsLoop(receivers[CLIENT], frame.f_locals["tasks"], frame.f_locals["i"])


def get_handler(consumer: AsyncConsumer, message: Any) -> Any:
    """Return the method that handles a message, or None; raises for a message without a type, as Channels does."""
    try:
        name = _handler_name(message["type"])
    except (KeyError, TypeError):
        name = channels_consumer.get_handler_name(message)
    return getattr(consumer, name, None) or default_handler(consumer, message)


@lru_cache(1024)
def _handler_name(kind: str) -> str:
    if len(kind) > _LONGEST_KIND:
        raise KeyError(kind)  # which is not cached: whoever may publish at the broker could fill the memory
    return channels_consumer.get_handler_name({"type": kind})


def close_old_connections() -> None:
    """Close database connections of this thread as Channels does; its tools for tests replace the function there."""
    channels_db.close_old_connections()  # type: ignore[attr-defined]


def is_worker(consumer: AsyncConsumer) -> bool:
    """Return whether a consumer handles the messages of a normal channel."""
    return getattr(consumer, "scope", {}).get("type") == "channel"


def jobs_of_worker(consumer: AsyncConsumer | None, receive: Receive, first: Any) -> asyncio.Queue[Any] | None:
    """Return the queue from which a worker's consumer receives, if its messages need no acknowledgement.

    ``runworker`` hands a consumer its messages as those of a client, by `asyncio.Queue.get`, and takes more from the
    channel meanwhile: from now on no more than `MOST_JOBS_AHEAD`.
    """
    if consumer is None or not is_worker(consumer) or isinstance(first, Job):
        return None
    queue = getattr(receive, "__self__", None)
    if not isinstance(queue, asyncio.Queue):
        return None
    # Else it would take all jobs there are, which other workers could handle, and which are lost if this one is killed.
    queue._maxsize = MOST_JOBS_AHEAD  # type: ignore[attr-defined]
    return queue


def acknowledging(handle: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Acknowledge each job that ``handle`` handles without an error."""

    async def handle_and_acknowledge(message: dict[str, Any]) -> None:
        if not isinstance(message, Job):
            await handle(message)
            return
        try:
            await handle(message)
        except StopConsumer:
            message.consumer_stopped(handled=True)
            raise
        except BaseException:
            message.consumer_stopped(handled=False)
            raise
        message.ack()

    return handle_and_acknowledge


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
