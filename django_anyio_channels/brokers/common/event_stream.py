"""Events on their way from a connection's callbacks to the hub."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from ...core.events import Event
from ...core.exceptions import ListenerClosed

_AT_ONCE = 32
"""Events that are delivered in one turn of the loop; readers must get their turn before their mailboxes are full."""


class EventStream:
    """What has come in one life, for the hub: at once where `set_event_handler` was called, or by `next`."""

    def __init__(self, unconsumed: Iterable[Event[bytes]] = ()) -> None:
        """To be made in the running event loop; ``unconsumed`` are the events to begin with."""
        self._loop = asyncio.get_running_loop()
        self._events = deque(unconsumed)
        self._deliver: Callable[[Event[bytes]], None] | None = None
        self._delivered = 0
        """How many events were delivered at once in this turn of the loop."""
        self._too_late: list[Event[bytes]] = []
        """What came over another connection after the end."""
        self._arrival: asyncio.Future[None] | None = None
        self._error: ListenerClosed | None = None

    def __len__(self) -> int:
        """How many events wait for `next`."""
        return len(self._events)

    def set_event_handler(self, deliver: Callable[[Event[bytes]], None]) -> None:
        """See `BaseChannelLayer.set_event_handler`."""
        self._deliver = deliver

    def add(self, event: Event[bytes]) -> None:
        """Deliver an event, or have it wait behind those that do; after the end, for the next life."""
        if self._error is not None:
            self._too_late.append(event)
            return
        if self._deliver is not None and not self._events and self._delivered < _AT_ONCE:
            if not self._delivered:
                self._loop.call_soon(self._next_turn)
            self._delivered += 1
            self._deliver(event)
            return
        self._events.append(event)
        self._wake()

    async def next(self) -> Event[bytes]:
        """Wait for the next event. Raises the error of `end` once those that came before it are handed out."""
        while not self._events:
            if self._error is not None:
                raise ListenerClosed(*self._error.args) from self._error
            self._arrival = self._loop.create_future()
            await self._arrival
        return self._events.popleft()

    def end(self, error: ListenerClosed) -> None:
        """No more are for this life."""
        if self._error is None:
            self._error = error
            self._wake()

    def unconsumed(self) -> list[Event[bytes]]:
        """What nobody has fetched."""
        return [*self._events, *self._too_late]

    def _next_turn(self) -> None:
        self._delivered = 0

    def _wake(self) -> None:
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
            self._arrival = None
