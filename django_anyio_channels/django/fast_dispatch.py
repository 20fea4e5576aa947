"""Cheaper ways from the mailbox to the handlers of a consumer, for Channels' own ``dispatch``.

Channels makes two tasks and a hop to the sync thread of each message. Here what waits is handled in one go, a
synchronous consumer hops once for all of it, and an asynchronous one only if a database connection is due to be closed.
A consumer that overrides ``dispatch`` keeps it, and is given what waits in one go.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, cast

import channels
from channels import consumer as channels_consumer
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.db import database_sync_to_async

from .closing import add_handler
from .consumers import close_old_connections, get_handler
from .old_connections import OldConnections
from .sync_sends import SyncSends

logger = logging.getLogger("django_anyio_channels")

PROVEN_VERSIONS = ("4.3.",)
"""The versions of Channels whose ``dispatch`` and ``await_many_dispatch`` are the ones that this replaces."""

_AT_ONCE = 32
"""How many messages of the layer are handled before the client's next one."""

_ASYNC_DISPATCH = vars(AsyncConsumer)["dispatch"]
_SYNC_DISPATCH = vars(SyncConsumer)["dispatch"]

TakeAfter = Callable[[Any], Any]
"""Returns the message after this one if it has come already, else None."""


@lru_cache
def is_supported() -> bool:
    """Return whether the installed Channels is a version that this is proved with; log it once if not."""
    supported = channels.__version__.startswith(PROVEN_VERSIONS)
    if not supported:
        logger.info("fast_dispatch is off: it isn't tested with Channels %s", channels.__version__)
    return supported


def speed_up(consumer: AsyncConsumer, take_after: TakeAfter) -> None:
    """Replace the ``dispatch`` of a consumer that is about to begin. Of several channels it is the first one's."""
    original = inspect.getattr_static(consumer, "dispatch")
    if isinstance(original, (_AsyncDispatch, _SyncDispatch, _OtherDispatch)):
        return
    dispatch: Callable[[Any], Awaitable[None]]
    if original is _ASYNC_DISPATCH and _is_channels_own(original):
        dispatch = _AsyncDispatch(consumer, take_after)
    elif original is _SYNC_DISPATCH and _is_channels_own(original.func):
        dispatch = _SyncDispatch(cast(SyncConsumer, consumer), take_after)
    else:
        dispatch = _OtherDispatch(consumer, original, take_after)
        add_handler(consumer)
    consumer.dispatch = dispatch  # type: ignore[method-assign]


def _is_channels_own(function: Any) -> bool:
    # Instrumentation may have replaced it before this was imported.
    return bool(function.__code__.co_filename == channels_consumer.__file__)


class _AsyncDispatch:
    """``AsyncConsumer.dispatch``, and then what waits."""

    __slots__ = ("_connections", "_consumer", "_take_after")

    def __init__(self, consumer: AsyncConsumer, take_after: TakeAfter) -> None:
        self._consumer = weakref.ref(consumer)
        self._take_after = take_after
        self._connections = OldConnections()

    async def __call__(self, message: Any) -> None:
        consumer = self._consumer()
        assert consumer is not None  # it is awaiting this
        connections, left = self._connections, _AT_ONCE
        while message is not None:
            handler = get_handler(consumer, message)
            if not handler:
                await _ASYNC_DISPATCH(consumer, message)  # raises
            if connections.due:
                await connections.close()
            await handler(message)
            left -= 1
            message = self._take_after(message) if left else None


class _SyncDispatch:
    """``SyncConsumer.dispatch`` for a message and what waits behind it, in one hop to the sync thread."""

    __slots__ = ("_consumer", "_sends", "_take_after")

    def __init__(self, consumer: SyncConsumer, take_after: TakeAfter) -> None:
        self._consumer = weakref.ref(consumer)
        self._take_after = take_after
        self._sends: SyncSends | None = None

    async def __call__(self, message: Any) -> None:
        consumer = self._consumer()
        assert consumer is not None  # it is awaiting this
        if self._sends is None:
            # Not before: the consumer's own `base_send` is made after its channel.
            self._sends = consumer.base_send = SyncSends(consumer.base_send)  # type: ignore[assignment]
        messages = [message]
        while len(messages) < _AT_ONCE and (message := self._take_after(messages[-1])) is not None:
            messages.append(message)
        async with self._sends:
            await _handle_all(consumer, messages, self._sends, asyncio.current_task())


@database_sync_to_async
def _handle_all(consumer: SyncConsumer, messages: list[Any], sends: SyncSends, task: asyncio.Task[Any] | None) -> None:
    with sends.in_this_thread():
        for number, message in enumerate(messages):
            if number:
                close_old_connections()  # as `database_sync_to_async` does before and after
            if task is not None and task.cancelling():
                return
            handler = get_handler(consumer, message)
            if not handler:
                _SYNC_DISPATCH.func(consumer, message)  # raises
            handler(message)


class _OtherDispatch:
    """The consumer's own ``dispatch``, and then what waits."""

    __slots__ = ("_consumer", "_of_instance", "_original", "_take_after")

    def __init__(self, consumer: AsyncConsumer, original: Any, take_after: TakeAfter) -> None:
        self._consumer = weakref.ref(consumer)
        self._original = original
        self._of_instance = "dispatch" in vars(consumer)
        self._take_after = take_after

    async def __call__(self, message: Any) -> None:
        consumer, left = self._consumer(), _AT_ONCE
        dispatch = self._original
        if not self._of_instance and hasattr(dispatch, "__get__"):
            dispatch = dispatch.__get__(consumer, type(consumer))
        while message is not None:
            await dispatch(message)
            left -= 1
            message = self._take_after(message) if left else None
