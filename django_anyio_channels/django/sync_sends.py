"""What a synchronous consumer sends: in order, and without its thread waiting for each message."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AHEAD = 64
"""How many messages a handler may be ahead of the client."""


class SyncSends:
    """Takes the place of a synchronous consumer's ``base_send``, which waits for the event loop with each message.

    A handler waits only if it is `_AHEAD` messages ahead. All is sent when the ``async with`` block ends. An error of a
    message that was sent meanwhile is raised by the handler's next one, or else at the end of the block.
    """

    def __init__(self, base_send: Any) -> None:
        """``base_send`` is an `asgiref.sync.AsyncToSync`."""
        self._base_send = base_send
        self._send = base_send.awaitable
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[Any] = deque()
        self._room = threading.Semaphore(_AHEAD)
        self._sender: asyncio.Task[None] | None = None
        self._is_sending = False
        self._error: BaseException | None = None
        self._thread: int | None = None

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """The block runs the handlers."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None

    def __call__(self, message: Any) -> None:
        if threading.get_ident() != self._thread:
            self._base_send(message)  # not a handler
            return
        self._room.acquire()
        self._raise_error()
        with self._lock:
            self._waiting.append(message)
            begins, self._is_sending = not self._is_sending, True
        if begins:
            self._loop.call_soon_threadsafe(self._start)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._sender is not None:
            await asyncio.wait([self._sender])
        if kind is None:
            self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _start(self) -> None:
        self._sender = self._loop.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        try:
            while (message := self._next()) is not None:
                await self._send(message)
                self._room.release()
        except BaseException as error:
            self._error = error
            while self._next() is not None:
                self._room.release()
            self._room.release()
            if not isinstance(error, Exception):
                raise

    def _next(self) -> Any:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._is_sending = False
            return None
