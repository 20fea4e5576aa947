"""Closes old database connections before each message as Channels does, and hops to the sync thread only if one is due.

Channels awaits ``close_old_connections`` in the thread of `asgiref.sync.sync_to_async` before each message of each
consumer, though there is hardly ever one to close. Django tells when a connection is made (``connection_created``), and
what `BaseDatabaseWrapper.close_if_unusable_or_obsolete` looks at can be read from any thread.
"""

from __future__ import annotations

import threading
import weakref
from time import monotonic
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .internals import close_old_connections

_by_thread: dict[int, tuple[weakref.ref[BaseDatabaseWrapper], ...]] = {}
"""The connections that each thread has made. The tuples are replaced, never changed: other threads read them."""


def _remember(connection: BaseDatabaseWrapper, **signal: Any) -> None:
    thread = threading.get_ident()
    known = [reference for reference in _by_thread.get(thread, ()) if reference() not in (None, connection)]
    _by_thread[thread] = (*known, weakref.ref(connection))


connection_created.connect(_remember, dispatch_uid=__name__)


class OldConnections:
    """The connections of the thread in which one consumer's synchronous code runs."""

    def __init__(self) -> None:
        self._thread: int | None = None

    def due(self) -> bool:
        """Return whether `close` has anything to do, or cannot know yet."""
        thread = self._thread
        return thread is None or (thread in _by_thread and any_due(thread))

    async def close(self) -> None:
        """Close the connections that Django would close now."""
        self._thread = await sync_to_async(_close)()


def _close() -> int:
    close_old_connections()
    for connection in connections.all(initialized_only=True):
        _remember(connection)
    return threading.get_ident()


def any_due(thread: int) -> bool:
    """Return whether a thread has a connection that ``close_old_connections`` would change."""
    for reference in _by_thread.get(thread, ()):
        connection = reference()
        if connection is not None and connection.connection is not None and _is_due(connection):
            return True
    return False


def _is_due(connection: Any) -> bool:
    return bool(
        connection.errors_occurred
        or connection.autocommit != connection.settings_dict["AUTOCOMMIT"]
        or (connection.close_at is not None and monotonic() >= connection.close_at)
        or (connection.health_check_enabled and connection.health_check_done)
    )
