"""Events on their way from a connection's callbacks to the hub."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from ...core.events import Event
from ...core.exceptions import ListenerClosed
from ...core.telemetry import queue_for

_EVENTS_PER_TURN = 32
"""Events for the handler in one turn of the loop: readers must get their turn before their mailboxes are full."""


class EventStream:
    """The events of one session: passed to the handler at once, or returned by `next`, in the order of `add`."""

    def __init__(self, unconsumed: Iterable[Event[bytes]] = ()) -> None:
        """Create it in the running event loop. ``unconsumed`` are the events to begin with."""
        self._loop = asyncio.get_running_loop()
        self.queued: deque[Event[bytes]] = deque(unconsumed)
        """The events that wait for `next`."""
        self._handler: Callable[[Event[bytes]], None] | None = None
        self._handled: list[None] = []
        """One for each event that the handler got in this turn of the loop."""
        self._late: list[Event[bytes]] = []
        """Events that came after the end, over another connection."""
        self._arrival: asyncio.Future[None] | None = None
        self._error: ListenerClosed | None = None

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        """See `BaseChannelLayer.set_event_handler`."""
        self._handler = handler
        self.queued = queue_for(handler, self.queued)

    def add(self, event: Event[bytes]) -> None:
        """Pass an event to the handler, or queue it behind others; after the end it is for the next session."""
        if self._error is not None:
            self._late.append(event)
        elif self._handler is not None and not self.queued and len(self._handled) < _EVENTS_PER_TURN:
            if not self._handled:
                self._loop.call_soon(self._handled.clear)
            self._handled.append(None)
            self._handler(event)
        else:
            self.queued.append(event)
            self._wake()

    async def next(self) -> Event[bytes]:
        """Wait for the next event. Raises the error of `end` after the events that came before it."""
        while not self.queued:
            if self._error is not None:
                raise ListenerClosed(*self._error.args) from self._error
            self._arrival = self._loop.create_future()
            await self._arrival
        return self.queued.popleft()

    def end(self, error: ListenerClosed) -> None:
        """End the session. The first error wins; later calls are ignored."""
        if self._error is None:
            self._error = error
            self._wake()

    def unconsumed(self) -> list[Event[bytes]]:
        """Return the events that were received but not consumed, for the next session."""
        return [*self.queued, *self._late]

    def _wake(self) -> None:
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
            self._arrival = None
