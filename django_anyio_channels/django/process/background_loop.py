"""The background event loop of the process, for threads and for event loops that end soon."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress

from ...core.exceptions import ChannelClosed, ListenerClosed, NotSupported
from .ends import watch

Loop = asyncio.AbstractEventLoop

_STOP_SECONDS = 10.0


class BackgroundLoop:
    """An event loop in a daemon thread, started when first needed and ended with the process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Return to the initial state without ending the present loop."""
        self._lock = threading.Lock()
        self.loop_if_running: Loop | None = None
        """The loop, while it runs."""
        self._stop: asyncio.Event
        self._ended: Future[None]
        self._is_exiting = False

    def loop(self) -> Loop:
        """Return the running loop, started if need be.

        Raises `ListenerClosed` if it cannot be started; the next call tries again.
        """
        watch()
        with self._lock:
            return self.loop_if_running or self._start()

    def stop(self) -> None:
        """Cancel the tasks of the loop, and wait for its end."""
        loop = self.loop_if_running
        if loop is not None:
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(self._stop.set)
            wait([self._ended], _STOP_SECONDS)

    def stop_for_good(self) -> None:
        """`stop` when the interpreter exits. Python starts no threads then."""
        self._is_exiting = True
        self.stop()

    def _start(self) -> Loop:
        if self._is_exiting:
            raise ChannelClosed(
                "The interpreter exits, and the channel layer has closed its connections. Python calls the atexit "
                "handler first that was registered last: register yours after django.setup()"
            )
        _refuse_eventlet()
        started: Future[Loop] = Future()
        try:
            _start_thread(lambda: self._run(started))
            return started.result()
        except Exception as error:
            raise ListenerClosed(f"Cannot start the background event loop of this process: {error!r}") from error

    def _run(self, started: Future[Loop]) -> None:
        ended = self._ended = Future[None]()
        serving = self._serve(started)
        try:
            if asyncio._get_running_loop() is not None:  # a runner that begins here would warn of all that it leaves
                raise RuntimeError("its thread runs another event loop")
            with asyncio.Runner() as runner:
                runner.run(serving)
        except BaseException as error:
            serving.close()
            if started.done():
                raise
            started.set_exception(error)
        finally:
            ended.set_result(None)

    async def _serve(self, started: Future[Loop]) -> None:
        loop = self.loop_if_running = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set_result(loop)
        try:
            await self._stop.wait()
        finally:
            if self.loop_if_running is loop:
                self.loop_if_running = None


def _refuse_eventlet() -> None:
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        # Its locks cannot be released from another thread: nobody could wait for what an event loop does there.
        raise NotSupported(
            "eventlet has patched the threads of this process, so the channel layer cannot run an event loop beside "
            "them. Use threads, processes or gevent instead of eventlet"
        )


def _start_thread(function: Callable[[], None]) -> None:
    """Start a thread of the operating system.

    In one of gevent's the event loop would count as that of every other one, and Django would refuse the ORM to all.
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        gevent.get_original("_thread", "start_new_thread")(function, ())
    else:
        threading.Thread(target=function, name="django-anyio-channels", daemon=True).start()


background = BackgroundLoop()
