"""One open resource per event loop, for as long as the loop lives."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from importlib import import_module
from typing import Any, Generic, TypeVar

from asgiref.sync import AsyncToSync

# The first use of anyio would import this inside the server's event loop, and block it for 0.1 s.
with suppress(ImportError):
    import_module("anyio._backends._asyncio")

T = TypeVar("T")
Loop = asyncio.AbstractEventLoop


class Hosted(Generic[T]):
    """What one event loop has open. A task of that loop opens it, sleeps, and closes it when the loop ends."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.opened: asyncio.Future[T] = loop.create_future()
        self.resource: T | None = None
        self.task: asyncio.Task[None]

    @property
    def reachable(self) -> bool:
        """Whether another thread may ask this loop to do something."""
        return self.resource is not None and self.loop.is_running() and self.thread != threading.get_ident()


class PerLoop(Generic[T]):
    """Opens one ``T`` for each event loop that asks, and closes it with the loop.

    Loops that `asgiref.sync.async_to_sync` makes for a single call get none of their own (`is_passing`).
    """

    def __init__(self, opener: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._opener = opener
        self._reset()
        _every_per_loop.add(self)

    def _reset(self) -> None:
        # The garbage collector may end the host of a loop that nobody closed well at any moment, also while this thread
        # holds the lock; so the lock lets it in, and loops go over copies.
        self._lock = threading.RLock()
        self._hosted: dict[Loop, Hosted[T]] = {}
        self._visits: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()

    def current(self) -> T | None:
        """What the running loop has open already."""
        hosted = self._hosted.get(asyncio.get_running_loop())
        return None if hosted is None else hosted.resource

    async def here(self) -> T:
        """What the running loop has open; opens it first if need be. Raises what opening raises."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for closed in [other for other in list(self._hosted) if other.is_closed()]:
                self._hosted.pop(closed, None)
            hosted = self._hosted.get(loop)
            if hosted is None:
                hosted = self._hosted[loop] = Hosted(loop)
                # A context of its own: the caller's variables and cancel scopes are not the loop's.
                hosted.task = contextvars.Context().run(loop.create_task, self._host(hosted))
        return await asyncio.shield(hosted.opened)

    def elsewhere(self) -> Loop:
        """Another running loop that has one open, or else the process's background loop."""
        with self._lock:
            loop = next((hosted.loop for hosted in list(self._hosted.values()) if hosted.reachable), None)
        return loop or background.loop()

    def loop_of(self, is_wanted: Callable[[T], bool]) -> Loop | None:
        """The loop that has open what is wanted."""
        with self._lock:
            for hosted in list(self._hosted.values()):
                if hosted.resource is not None and is_wanted(hosted.resource):
                    return hosted.loop
        return None

    def visits(self) -> int:
        """Count a call from the running loop, and return how many it has made."""
        loop = asyncio.get_running_loop()
        with self._lock:
            count = self._visits[loop] = self._visits.get(loop, 0) + 1
            return count

    def all_open(self) -> list[T]:
        """Everything that is open in any loop."""
        with self._lock:
            living = [hosted for hosted in list(self._hosted.values()) if not hosted.loop.is_closed()]
        return [hosted.resource for hosted in living if hosted.resource is not None]

    async def close_here(self) -> None:
        """Close what the running loop has open."""
        hosted = self._hosted.get(asyncio.get_running_loop())
        if hosted is not None:
            await _end(hosted.task)

    def close_all(self, timeout: float) -> None:
        """Close what every loop has open, and wait for that, but not for the caller's own running loop."""
        for hosted in list(self._hosted.values()):
            if hosted.loop.is_running():
                closed = asyncio.run_coroutine_threadsafe(_end(hosted.task), hosted.loop)
                if hosted.thread != threading.get_ident():
                    closed.result(timeout)
        self._close_idle_loops()

    async def _host(self, hosted: Hosted[T]) -> None:
        try:
            async with self._opener() as resource:
                hosted.resource = resource
                hosted.opened.set_result(resource)
                await hosted.loop.create_future()
        except asyncio.CancelledError:
            hosted.opened.cancel()
            raise
        except Exception as error:
            if hosted.opened.done():
                raise
            hosted.opened.set_exception(error)
            hosted.opened.exception()
        finally:
            self._forget(hosted)

    def _forget(self, hosted: Hosted[T]) -> None:
        with self._lock:
            if self._hosted.get(hosted.loop) is hosted:
                del self._hosted[hosted.loop]

    def _close_idle_loops(self) -> None:
        """Finish what loops that were stopped but never closed have left open."""
        for hosted in list(self._hosted.values()):
            if not hosted.loop.is_closed() and not hosted.loop.is_running():
                hosted.loop.run_until_complete(_end(hosted.task))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def is_passing() -> bool:
    """Whether the running loop was made by `asgiref.sync.async_to_sync` for one call and ends with it."""
    return asyncio.get_running_loop() in AsyncToSync.loop_thread_executors


class BackgroundLoop:
    """An event loop in a daemon thread, started when first needed and ended with the process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin as a new process does, without touching what was."""
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event

    def loop(self) -> Loop:
        """The running loop."""
        with self._lock:
            if self._loop is None:
                started = threading.Event()
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._run(started)), name="django-anyio-channels", daemon=True
                )
                self._thread.start()
                started.wait()
                assert self._loop is not None
            return self._loop

    @property
    def loop_if_running(self) -> Loop | None:
        """The loop, if anybody has needed it yet."""
        return self._loop

    def stop(self) -> None:
        """Cancel what runs there, and wait for its end."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=10.0)

    async def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set()
        await self._stop.wait()


background = BackgroundLoop()
_every_per_loop: weakref.WeakSet[PerLoop[Any]] = weakref.WeakSet()
_of_the_parent: list[object] = []


def _at_exit() -> None:
    background.stop()
    for per_loop in list(_every_per_loop):
        per_loop._close_idle_loops()


def _in_forked_child() -> None:
    # The parent's loops and connections are kept, not closed: closing them here would disturb the parent's.
    _of_the_parent.append(background.loop_if_running)
    background.reset()
    for per_loop in list(_every_per_loop):
        _of_the_parent.append(per_loop._hosted)
        per_loop._reset()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_forked_child)
