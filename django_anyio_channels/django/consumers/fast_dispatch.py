"""Cheaper ways from the mailbox to the handlers of a consumer than Channels' own ``dispatch``.

A synchronous consumer hops to the sync thread once for all that waits, an asynchronous one only if a database
connection is due to be closed. A consumer that overrides ``dispatch`` keeps it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Awaitable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, cast

import channels
from asgiref.sync import AsyncToSync, SyncToAsync
from channels import consumer as channels_consumer
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.db import database_sync_to_async

from ..messages.ready_frames import HANDLER, is_websocket
from .consumer_loop import AT_ONCE, ConsumerLoop, Handle, Inbox
from .default_handlers import add_handlers
from .internals import acknowledging, close_old_connections, get_handler, is_worker
from .old_connections import OldConnections
from .sync_sends import SyncSends

logger = logging.getLogger("django_anyio_channels")

PROVEN_VERSIONS = ("4.3.",)
"""The versions of Channels whose ``dispatch`` and ``await_many_dispatch`` are the ones that this replaces."""

_ASYNC_DISPATCH = vars(AsyncConsumer)["dispatch"]
_SYNC_DISPATCH = vars(SyncConsumer)["dispatch"]


@lru_cache
def is_supported() -> bool:
    """Return whether the installed Channels is a version that this is proved with; log it once if not."""
    supported = channels.__version__.startswith(PROVEN_VERSIONS)
    if not supported:
        logger.info("fast_dispatch is off: it isn't tested with Channels %s", channels.__version__)
    return supported


def inbox_of(consumer: AsyncConsumer) -> Inbox | None:
    """Return the inbox of a consumer that `speed_up` was called with."""
    dispatch = vars(consumer).get("dispatch")
    return dispatch.inbox if isinstance(dispatch, ConsumerLoop) else None


def speed_up(consumer: AsyncConsumer, inbox: Inbox) -> None:
    """Replace the ``dispatch`` of a consumer that is about to begin."""
    original = inspect.getattr_static(consumer, "dispatch")
    handle: Handle
    if original is _ASYNC_DISPATCH and _is_channels_own(original):
        handle = _AsyncDispatch(consumer)
    elif original is _SYNC_DISPATCH and _is_channels_own(original.func):
        handle = _SyncDispatch(cast(SyncConsumer, consumer), inbox)
    else:
        handle = _OtherDispatch(consumer, original)
        add_handlers(consumer)
    # On the instance: its class may be anything, and other instances of it have other layers.
    sends_frames = isinstance(handle, _AsyncDispatch) and is_websocket(consumer) and not hasattr(consumer, HANDLER)
    if is_worker(consumer):
        handle = acknowledging(handle)
    consumer.dispatch = ConsumerLoop(consumer, handle, inbox, sends_frames=sends_frames)  # type: ignore[method-assign]


def _is_channels_own(function: Any) -> bool:
    # Instrumentation may have replaced it before this was imported.
    return bool(function.__code__.co_filename == channels_consumer.__file__)


class _AsyncDispatch:
    """``AsyncConsumer.dispatch``, which closes old connections only where there are any."""

    __slots__ = ("_connections", "_consumer")

    def __init__(self, consumer: AsyncConsumer) -> None:
        self._consumer = weakref.ref(consumer)
        self._connections = OldConnections()

    def __call__(self, message: Any) -> Awaitable[None]:
        consumer = self._consumer()
        assert consumer is not None  # it is awaiting this
        handler = get_handler(consumer, message)
        if not handler:
            return _ASYNC_DISPATCH(consumer, message)  # type: ignore[no-any-return] # raises
        if self._connections.due():
            return self._close_and_handle(handler, message)
        return handler(message)  # type: ignore[no-any-return] # a coroutine of our own would only pass it on

    async def _close_and_handle(self, handler: Handle, message: Any) -> None:
        await self._connections.close()
        await handler(message)


class _SyncDispatch:
    """``SyncConsumer.dispatch`` for a message and what waits behind it, in one hop to the sync thread."""

    __slots__ = ("_consumer", "_inbox", "_sends")

    def __init__(self, consumer: SyncConsumer, inbox: Inbox) -> None:
        self._consumer = weakref.ref(consumer)
        self._inbox = inbox
        self._sends: SyncSends | None = None

    async def __call__(self, message: Any) -> None:
        consumer = self._consumer()
        assert consumer is not None  # it is awaiting this
        if self._sends is None:
            # Not before: the consumer's own `base_send` is made after its channel.
            self._sends = consumer.base_send = SyncSends(consumer.base_send)  # type: ignore[assignment]
        # All is sent when the thread is another consumer's already: a slow client holds up none of them.
        async with self._sends, nullcontext() if _has_own_thread() else self._inbox.turns.sync_thread:
            messages = [message]
            while len(messages) < AT_ONCE and (message := self._inbox.take()) is not None:
                messages.append(message)
            await _handle_all(consumer, messages, self._sends, asyncio.current_task())


def _has_own_thread() -> bool:
    """Return whether the thread is free at once for `sync_to_async` here.

    It is the consumer's own by asgiref's ``ThreadSensitiveContext``, or waits in `async_to_sync` for what runs here.
    """
    is_own = SyncToAsync.thread_sensitive_context.get(None) is not None
    return is_own or getattr(AsyncToSync.executors, "current", None) is not None


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
    """The consumer's own ``dispatch``."""

    __slots__ = ("_consumer", "_dispatch", "_is_method")

    def __init__(self, consumer: AsyncConsumer, dispatch: Any) -> None:
        self._consumer = weakref.ref(consumer)
        self._dispatch = dispatch
        self._is_method = "dispatch" not in vars(consumer) and hasattr(dispatch, "__get__")

    async def __call__(self, message: Any) -> None:
        dispatch = self._dispatch
        if self._is_method:
            consumer = self._consumer()
            dispatch = dispatch.__get__(consumer, type(consumer))
        await dispatch(message)
