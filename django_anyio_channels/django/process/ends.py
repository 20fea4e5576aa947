"""The ends of a process that cancel no task and call no `atexit` handler, made orderly.

* SIGTERM where nothing handles it, as under ``runworker``: the process dies at once.
* SIGTERM under uvicorn. It shuts down, restores the handler that it found, and raises SIGTERM again before its event
  loop ends: the process dies in the middle.
* The end of a child of `multiprocessing`, which calls its own finalizers only, and of Celery's.

A program with a SIGTERM handler of its own is left alone, and so is a server that embeds Python and handles signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import parent_process, util
from types import FrameType
from typing import Any, NoReturn

Close = Callable[[], None]


class SigtermHandler:
    """Handles SIGTERM in place of the former handler, which is the system's or uvicorn's."""

    def __init__(self, former: Any) -> None:
        self.former = former

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.former is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
            # Another thread, because the event loop of this one must go on to close what it has open.
            try:
                threading.Thread(target=_close_and_end, daemon=True).start()
            except RuntimeError:  # there are too many, or the interpreter exits
                _end()
        else:
            # What uvicorn raises is meant for this thread, and waits now. asyncio.run() ends the tasks meanwhile.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            self.former(number, frame)


def _close_and_end() -> NoReturn:
    try:
        _close_all()
    finally:
        _end()


def _end() -> NoReturn:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(128 + signal.SIGTERM)  # the first process of a container is not killed by its own signals


_closers: list[Close] = []
_child_pid = 0
"""The child process whose end is watched."""
_may_handle_signals = True
"""Whether the server that embeds Python lets programs handle signals, as far as is known."""


def close_at_end(close: Close) -> None:
    """Have ``close`` called at such an end of a process that calls `watch`."""
    _closers.append(close)


def _close_all() -> None:
    for close in _closers:
        close()


def watch() -> None:
    """Make such an end of this process orderly. It takes effect when a main thread calls it."""
    global _child_pid
    if _may_handle_signals and threading.current_thread() is threading.main_thread():
        former = signal.getsignal(signal.SIGTERM)
        if former is signal.SIG_DFL or _is_of_uvicorn(former):
            _handle_sigterm(former)
    if _child_pid != os.getpid():
        _child_pid = os.getpid()
        if parent_process() is not None:
            util.Finalize(None, _close_all, exitpriority=100)
        if "celery.signals" in sys.modules:
            shutdown = sys.modules["celery.signals"].worker_process_shutdown
            shutdown.connect(lambda **_: _close_all(), weak=False, dispatch_uid=__name__)


def _handle_sigterm(former: Any) -> None:
    global _may_handle_signals
    # A sub-interpreter raises ValueError. mod_wsgi ignores the handler, and logs a traceback each time.
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, SigtermHandler(former))
    _may_handle_signals = signal.getsignal(signal.SIGTERM) is not former


def _is_of_uvicorn(handler: object) -> bool:
    return type(getattr(handler, "__self__", None)).__module__.split(".")[0] == "uvicorn"
