"""Lookups of host names after the main thread has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def keep_lookups_working() -> None:
    """Have the running event loop look up host names even after the main thread has ended. Call before connecting.

    Threads may outlive the main thread, but no executor of Python's takes work then, and asyncio looks names up in one.
    """
    if not threading.main_thread().is_alive():
        asyncio.get_running_loop().set_default_executor(_LateExecutor())


class _LateExecutor(ThreadPoolExecutor):
    """Starts a thread for each call. asyncio takes no executor that is not a `ThreadPoolExecutor`."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="lookup", daemon=True).start()
        return future
