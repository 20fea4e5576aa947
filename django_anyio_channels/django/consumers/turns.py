"""The turns of a node's consumers: when each is woken, and when a synchronous one has the thread.

A message to a large group is for very many consumers at once. Some of them are woken in each iteration of the event
loop, which looks after its connections in between: further messages come, and a consumer that is woken later finds
several. Handling them together costs less, for it and for its server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context

WOKEN_AT_ONCE = 32
"""How many consumers are woken in one iteration of the event loop."""

HANDED_OVER = 8
"""How many synchronous consumers at once are handed over to their thread, which then needn't wait for the event loop.
Others find more messages when it is their turn."""


class Turns:
    """Calls what wakes consumers, some in each iteration of the event loop."""

    __slots__ = ("_context", "_free", "_is_scheduled", "_loop", "_waiting", "sync_thread")

    def __init__(self) -> None:
        """For the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # not that of whoever asks first
        self._waiting: deque[Callable[[], object]] = deque()
        self._free = WOKEN_AT_ONCE
        """How many more may be woken at once."""
        self._is_scheduled = False
        self.sync_thread = asyncio.Semaphore(HANDED_OVER)
        """Held by a synchronous consumer that is handled in the thread that all share, and by those that are next."""

    def ask(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` now if it is among the first in this iteration of the event loop, else in one of the next."""
        if not self._is_scheduled:
            self._schedule()
        if self._free:
            self._free -= 1
            wake()
        else:
            self._waiting.append(wake)

    def ask_later(self, wake: Callable[[], object]) -> None:
        """Call ``wake``, which may do anything, in one of the next iterations of the event loop."""
        if not self._is_scheduled:
            self._schedule()
        self._waiting.append(wake)

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._go_on, context=self._context)

    def _go_on(self) -> None:
        waiting = self._waiting
        count = min(WOKEN_AT_ONCE, len(waiting))
        self._free = 0  # who asks meanwhile comes behind the others
        if count:
            self._schedule()
        else:
            self._is_scheduled = False
        for _ in range(count):
            waiting.popleft()()
        if not waiting:
            self._free = WOKEN_AT_ONCE - count
