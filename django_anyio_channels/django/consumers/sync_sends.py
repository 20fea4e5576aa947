"""What a synchronous consumer sends: in order, and without its thread waiting for each message."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from copy import copy
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, sync_to_async

logger = logging.getLogger("django_anyio_channels")

T = TypeVar("T")

_AHEAD = 64
"""How many messages a handler may be ahead of the client."""


class HandlerThread(Executor):
    """The thread of the handlers, for middleware that calls `sync_to_async` when it sends.

    Like asgiref's own executor of a thread in `async_to_sync` it runs such a call while the handler waits. Once the
    handlers are done, the call goes wherever `sync_to_async` would make it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ident: int | None = None
        """The thread, while it runs handlers."""
        self._loop = loop
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The block runs the handlers."""
        self.ident = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self.ident = None
            while not self._calls.empty():
                self.wait()

    def wait(self) -> None:
        """Wait for a call and make it, or for `wake`."""
        call = self._calls.get()
        if call is not None:
            call()

    def wake(self) -> None:
        """Have `wait` return."""
        self._calls.put(None)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Make a call in the thread. Called by `sync_to_async` in the event loop."""
        call = partial(function, *args, **kwargs)
        with self._lock:
            if self.ident is not None:
                future = Future[T]()
                self._calls.put(partial(_run, call, future))
                return future
        AsyncToSync.executors.current = None
        return asyncio.run_coroutine_threadsafe(sync_to_async(call)(), self._loop)


def _run(call: Callable[[], T], future: Future[T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)


class SyncSends:
    """Takes the place of a synchronous consumer's ``base_send``, which waits for the event loop with each message.

    A handler waits only if it is `_AHEAD` messages ahead. All is sent when the ``async with`` block ends, unless that
    is cancelled. An error of a message that was sent meanwhile is raised by the handler's next one, or else at the end
    of the block; but there no `OSError`, by which a server says that the client has disconnected.
    """

    def __init__(self, base_send: Any) -> None:
        """``base_send`` is an `asgiref.sync.AsyncToSync`."""
        self._base_send = base_send
        self._send = base_send.awaitable
        self._loop = asyncio.get_running_loop()
        self._thread = HandlerThread(self._loop)
        self.in_this_thread = self._thread.running
        self._lock = threading.Lock()
        self._waiting: deque[Any] = deque()
        self._unsent = 0
        self._is_blocked = False
        """Whether a handler waits for room."""
        self._sender: asyncio.Task[None] | None = None
        self._is_sending = False
        self._error: BaseException | None = None

    def __call__(self, message: Any) -> None:
        if threading.get_ident() != self._thread.ident:
            self._base_send(message)  # not a handler
            return
        while not self._has_room():
            self._thread.wait()
        self._raise_error()
        with self._lock:
            self._waiting.append(copy(message))  # a handler may change it, and send it again
            self._unsent += 1
            begins, self._is_sending = not self._is_sending, True
        if begins:
            self._begin()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        sender = self._sender
        if sender is not None and not sender.done():
            if kind is not None and issubclass(kind, asyncio.CancelledError):
                sender.cancel()
            try:
                await asyncio.wait([sender])
            except asyncio.CancelledError:
                sender.cancel()
                raise
        if kind is None:
            try:
                self._raise_error()
            except OSError as gone:
                # The handler might have caught it, and the handler of the disconnect that follows must run.
                logger.info("A client disconnected before it received its last messages: %r", gone)

    def _has_room(self) -> bool:
        with self._lock:
            self._is_blocked = self._unsent >= _AHEAD
            return not self._is_blocked

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _begin(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop is closed
            self._drop_waiting()
            raise

    def _start(self) -> None:
        self._has_begun = False
        self._sender = self._loop.create_task(self._send_waiting())
        self._sender.add_done_callback(self._on_end)

    def _on_end(self, sender: asyncio.Task[None]) -> None:
        if sender is self._sender and not self._has_begun:  # cancelled before: its coroutine has not run at all
            self._fail(asyncio.CancelledError())

    async def _send_waiting(self) -> None:
        self._has_begun = True
        # As in `async_to_sync`, so that `sync_to_async` works in what is awaited.
        AsyncToSync.executors.current = self._thread
        SyncToAsync.deadlock_context.set(False)
        try:
            while (message := self._next()) is not None:
                await self._send(message)
                self._count_sent()
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        """Have a handler, or else the end of the block, raise an error; what waits is not sent."""
        self._error = error
        self._drop_waiting()

    def _next(self) -> Any:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._is_sending = False
            return None

    def _count_sent(self) -> None:
        with self._lock:
            self._unsent -= 1
            is_blocked, self._is_blocked = self._is_blocked, False
        if is_blocked:
            self._thread.wake()

    def _drop_waiting(self) -> None:
        with self._lock:
            self._waiting.clear()
            self._unsent, self._is_sending = 1, False
        self._count_sent()
