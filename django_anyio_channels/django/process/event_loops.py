"""One open resource for each event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, suppress
from importlib import import_module
from typing import Any, Generic, TypeVar

from asgiref.sync import AsyncToSync

from .background_loop import Loop, background
from .ends import close_at_end, watch

# The first use of anyio would import this inside the server's event loop, and block it for 0.1 s.
with suppress(ImportError):
    import_module("anyio._backends._asyncio")

T = TypeVar("T")


class _LoopEntry(Generic[T]):
    """The resource of one event loop. A task of that loop opens it, sleeps, and closes it when the loop ends."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.opened: asyncio.Future[T] = loop.create_future()
        self.task: asyncio.Task[None]
        self.resource: T | None = None
        self.is_blocked = False


class LoopLocal(Generic[T]):
    """Opens one ``T`` for each event loop that asks, and closes it with the loop.

    Loops that `asgiref.sync.async_to_sync` makes for a single call should ask for none (`is_async_to_sync_loop`).
    """

    def __init__(self, opener: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._opener = opener
        self.resources: dict[Loop, T] = {}
        """The open resource of each loop; the same dict until the process ends."""
        self._reset()
        _all_loop_locals.add(self)

    def _reset(self) -> None:
        # The garbage collector may end the task of a loop that was never closed at any moment, also while this thread
        # holds the lock. So the lock is reentrant, and loops go over copies.
        self._lock = threading.RLock()
        self._entries: dict[Loop, _LoopEntry[T]] = {}
        self.resources.clear()
        self._call_counts: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()

    def current(self) -> T | None:
        """Return the resource of the running loop, if it is open."""
        return self.resources.get(asyncio.get_running_loop())

    async def get_or_open(self) -> T:
        """Return the resource of the running loop, opened if need be. Raises what opening raises."""
        loop = asyncio.get_running_loop()
        watch()
        with self._lock:
            for closed in [other for other in list(self._entries) if other.is_closed()]:
                self._entries.pop(closed, None)
                self.resources.pop(closed, None)
            entry = self._entries.get(loop)
            if entry is None:
                entry = self._entries[loop] = _LoopEntry(loop)
                _remember(entry)
                # A context of its own: the caller's variables and cancel scopes are not the loop's.
                entry.task = contextvars.Context().run(loop.create_task, self._run(entry))
        return await asyncio.shield(entry.opened)

    def any_other(self) -> Loop:
        """Return another running loop with an open resource, or else the background loop."""
        with self._lock:
            for entry in list(self._entries.values()):
                loop = entry.loop
                is_open = loop in self.resources and loop.is_running() and not entry.is_blocked
                if is_open and entry.thread != threading.get_ident():
                    return loop
        return background.loop()

    def set_blocked(self, loop: Loop) -> None:
        """Have `any_other` pass over a loop until it has time again."""
        entry = self._entries.get(loop)
        if entry is not None:
            entry.is_blocked = True
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(setattr, entry, "is_blocked", False)

    def call_count(self) -> int:
        """Count a call from the running loop, and return how many it has made."""
        loop = asyncio.get_running_loop()
        with self._lock:
            count = self._call_counts[loop] = self._call_counts.get(loop, 0) + 1
            return count

    def all_open(self) -> list[T]:
        """Return the open resources of all loops."""
        return [resource for loop, resource in self.resources.copy().items() if not loop.is_closed()]

    def paused_here(self) -> list[tuple[Loop, T]]:
        """Return the open resources of this thread's loops that do not run, with these loops."""
        entries = [entry for entry in list(self._entries.values()) if entry.thread == threading.get_ident()]
        return [
            (entry.loop, entry.resource)
            for entry in entries
            if entry.resource is not None and not (entry.loop.is_running() or entry.loop.is_closed())
        ]

    async def close_current(self) -> None:
        """Close the resource of the running loop."""
        entry = self._entries.get(asyncio.get_running_loop())
        if entry is not None:
            await _cancel(entry.task)

    def close_all(self, timeout: float) -> None:
        """Close the resource of every loop, and wait for that, except for the caller's own running loop."""
        if wait(self.begin_to_close(), timeout).not_done:
            raise TimeoutError(
                f"An event loop has not closed its connections within {timeout:g} s; something blocks it"
            )

    def begin_to_close(self) -> list[Future[None]]:
        """Begin what `close_all` does, and return what it waits for."""
        closing = []
        for entry in list(self._entries.values()):
            if entry.loop.is_running():
                closed = asyncio.run_coroutine_threadsafe(_cancel(entry.task), entry.loop)
                if entry.thread != threading.get_ident():
                    closing.append(closed)
        self._close_idle_loops()
        return closing

    async def _run(self, entry: _LoopEntry[T]) -> None:
        try:
            async with self._opener() as resource:
                self.resources[entry.loop] = entry.resource = resource
                entry.opened.set_result(resource)
                await entry.loop.create_future()
        except asyncio.CancelledError:
            entry.opened.cancel()
            raise
        except Exception as error:
            if entry.opened.done():
                raise
            entry.opened.set_exception(error)
            entry.opened.exception()
        finally:
            entry.resource = None
            with self._lock:
                if self._entries.get(entry.loop) is entry:
                    del self._entries[entry.loop]
                    self.resources.pop(entry.loop, None)

    def close_soon(self) -> None:
        """Have the resource of every loop closed, without waiting. May be called by the garbage collector."""
        for entry in list(self._entries.values()):
            with suppress(RuntimeError):  # the loop is closed
                entry.loop.call_soon_threadsafe(entry.task.cancel)

    def _close_idle_loops(self) -> None:
        """Close the resources of loops that were stopped but never closed."""
        for entry in list(self._entries.values()):
            if not entry.loop.is_closed() and not entry.loop.is_running():
                entry.loop.run_until_complete(_cancel(entry.task))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def is_async_to_sync_loop() -> bool:
    """Return whether `asgiref.sync.async_to_sync` made the running loop for one call."""
    return asyncio.get_running_loop() in AsyncToSync.loop_thread_executors


_all_entries: dict[int, weakref.ref[_LoopEntry[Any]]] = {}
_numbers = itertools.count()


def _remember(entry: _LoopEntry[Any]) -> None:
    for number, gone in _all_entries.copy().items():
        if gone() is None:
            _all_entries.pop(number, None)
    _all_entries[next(_numbers)] = weakref.ref(entry)


def open_in_idle_loops() -> list[tuple[Loop, Any]]:
    """Return the open resources of this process whose event loops do not run, with these loops.

    A loop that was closed without cancelling its tasks leaves its resource open until the garbage collector comes.
    """
    entries = [entry for reference in _all_entries.copy().values() if (entry := reference()) is not None]
    return [
        (entry.loop, entry.resource) for entry in entries if entry.resource is not None and not entry.loop.is_running()
    ]


_all_loop_locals: weakref.WeakSet[LoopLocal[Any]] = weakref.WeakSet()
_parent_resources: list[object] = []
_SECONDS_TO_CLOSE = 5.0
"""How long SIGTERM waits for event loops; Docker kills after 10 s."""


def _close_at_exit() -> None:
    background.stop_for_good()
    for loop_local in list(_all_loop_locals):
        loop_local._close_idle_loops()


def close_everything() -> None:
    """Close the resources of all event loops, from a thread that runs none, because the process ends."""
    closing: list[Future[None]] = []
    for loop_local in list(_all_loop_locals):
        with suppress(Exception):  # the process ends, whatever happens
            closing += loop_local.begin_to_close()
    wait(closing, _SECONDS_TO_CLOSE)
    background.stop_for_good()


def _reset_in_child() -> None:
    # The parent's loops and connections are kept, not closed: closing them here would disturb the parent's.
    _parent_resources.append((background.loop_if_running, _all_entries.copy()))
    _all_entries.clear()
    background.reset()
    for loop_local in list(_all_loop_locals):
        _parent_resources.append(loop_local._entries)
        loop_local._reset()


atexit.register(_close_at_exit)
close_at_end(close_everything)
os.register_at_fork(after_in_child=_reset_in_child)
