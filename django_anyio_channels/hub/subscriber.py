"""The bounded mailbox: the only buffer of messages that wait for a reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from time import monotonic
from typing import Any

from ..core.events import Event
from ..core.exceptions import DecodeError, ListenerClosed
from ..core.notifier import NewWaiter, Notifier
from ..core.stats import DeliveryStats

Timestamped = tuple[float, Event[bytes]]
"""The time of arrival (`time.monotonic`) and the event; shared by all mailboxes that receive it."""


@dataclass(slots=True, eq=False, repr=False)
class Subscriber:
    """A bounded mailbox, opened by `Channel.subscribe`.

    Iterate over it, or await `receive`, in any number of tasks; each event goes to one of them, and cancelling loses
    none. While ``capacity`` events wait, newer ones are dropped, counted in `dropped` and logged. An event that was not
    read for ``expiry`` seconds is dropped and counted in `expired`. Events keep the order of their arrival. Each
    subscriber decodes its own copy.

    Where the broker expects acknowledgements, an event is acknowledged when a reader takes it, or with ``manual_ack``
    by `Event.ack`. Dropped events are acknowledged, too.
    """

    name: str
    """The name of this mailbox in logs."""
    _: KW_ONLY
    capacity: int
    expiry: float | None
    decode: Callable[[bytes], Any]
    new_waiter: InitVar[NewWaiter]
    stats: DeliveryStats
    manual_ack: bool = False
    dropped: int = field(default=0, init=False)
    """How many events were dropped because this mailbox was full."""
    expired: int = field(default=0, init=False)
    """How many events were dropped because they were not read in time."""
    notifier: Notifier = field(init=False)
    """Notifies when there may be an event for `receive_nowait`."""
    on_unclaimed: Callable[[Subscriber], object] | None = field(default=None, init=False)
    """Called with this mailbox after an event was put for which no task waits."""
    fetch_next: Callable[[], Awaitable[None]] | None = field(default=None, init=False)
    """Awaited by a reader of the empty mailbox, to put an event, where events are not pushed."""
    # A deque takes 600 bytes, and most mailboxes are empty most of the time.
    _items: deque[Timestamped] | None = field(default=None, init=False)
    _dropped_since_full: int = field(default=0, init=False)
    _overflow_logged: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self, new_waiter: NewWaiter) -> None:
        self.notifier = Notifier(new_waiter)

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._items) if self._items else 0

    @property
    def has_waiters(self) -> bool:
        """Whether a task waits for the next event."""
        return self.notifier.has_waiters

    def put(self, entry: Timestamped, *, force: bool = False) -> None:
        """Add an event if there is room (or with ``force``), else count it as dropped. Neither waits nor raises."""
        if self._items is None:
            self._items = deque()
        if len(self._items) >= self.capacity and not force:
            self._drop_expired(self._items, entry[0])
            if len(self._items) >= self.capacity:
                self._drop()
                return
        self._items.append(entry)
        if entry[1].ack_handle is not None:
            entry[1].ack_handle.retain()
        if not self.notifier.notify() and self.on_unclaimed is not None:
            self.on_unclaimed(self)

    def put_back(self, entry: Timestamped) -> None:
        """Return an event that was received but not used to the head of the mailbox, whatever the capacity."""
        if self._items is None:
            self._items = deque()
        self._items.appendleft(entry)
        self.notifier.notify()

    async def receive(self) -> Event[Any]:
        """Wait for the next event. Raises `ListenerClosed` once the mailbox is closed and empty."""
        while True:
            event = self.receive_nowait()
            if event is not None:
                return event
            if self._closed:
                raise ListenerClosed(f"{self.name} is closed")
            await (self.notifier.wait() if self.fetch_next is None else self.fetch_next())

    def receive_nowait(self) -> Event[Any] | None:
        """Return the next event, or None."""
        found = self.take()
        if found is None:
            return None
        event, message = found
        ack_handle = event.ack_handle if self.manual_ack else None
        return Event(event.group, message, event.subscription, ack_handle, event.position, event.deliveries)

    def take(self) -> tuple[Event[bytes], Any] | None:
        """Return the next event as the layer emitted it, and its decoded message; or None."""
        items = self._items
        while items:
            arrived, event = items.popleft()
            if not items:
                self._items = None
            if self._dropped_since_full and len(items) <= self.capacity // 2:
                self._log_recovered()
            if self.expiry is not None and arrived < monotonic() - self.expiry:
                self._count_expired(event)
                continue
            try:
                message = self.decode(event.message)
            except DecodeError as error:
                self.stats.count_undecodable(self.name, error)
                release(event)
                continue
            if event.ack_handle is not None and not self.manual_ack:
                event.ack_handle.release()
            return event, message
        return None

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> Event[Any]:
        try:
            return await self.receive()
        except ListenerClosed:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Let readers take the waiting events, then raise `ListenerClosed`."""
        self._closed = True
        self.notifier.notify_all()

    def clear(self) -> None:
        """Drop the waiting events."""
        items, self._items = self._items, None
        for _, event in items or ():
            release(event)

    def drop_expired(self, now: float) -> None:
        """Drop events that have waited for longer than ``expiry`` at ``now`` (`time.monotonic`)."""
        if self._items:
            self._drop_expired(self._items, now)
            if not self._items:
                self._items = None

    def _drop_expired(self, items: deque[Timestamped], now: float) -> None:
        if self.expiry is None:
            return
        oldest = now - self.expiry
        while items and items[0][0] < oldest:
            self._count_expired(items.popleft()[1])

    def _count_expired(self, event: Event[bytes]) -> None:
        release(event)
        self.expired += 1
        self.stats.expired += 1

    def _drop(self) -> None:
        self.dropped += 1
        self.stats.dropped += 1
        self._dropped_since_full += 1
        if self._dropped_since_full == 1:
            self._overflow_logged = self.stats.log_overflow(self.name, self.capacity)

    def _log_recovered(self) -> None:
        if self._overflow_logged:
            self.stats.log_recovered(self.name, self._dropped_since_full)
        self._dropped_since_full = 0


def release(event: Event[bytes]) -> None:
    """Release an event's ack handle, if it has one."""
    if event.ack_handle is not None:
        event.ack_handle.release()
