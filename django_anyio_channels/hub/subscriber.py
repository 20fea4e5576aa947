"""The bounded mailbox: the only buffer of messages that wait for a reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from itertools import islice
from time import monotonic
from typing import Any

from ..core.events import Event
from ..core.exceptions import DecodeError, ListenerClosed
from ..core.notifier import NewWaiter, Notifier
from ..core.stats import DeliveryStats

Timestamped = tuple[float, Event[bytes]]
"""The time of arrival (`time.monotonic`) and the event; shared by all mailboxes that receive it."""


@dataclass(slots=True)
class _Overflow:
    """What a full mailbox has dropped."""

    logged: bool
    dropped: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Subscriber:
    """A bounded mailbox, opened by `Channel.subscribe`.

    Iterate over it, or await `receive`, in any number of tasks; each event goes to one of them, and cancelling loses
    none. While ``capacity`` events wait, or as many bytes as a `Channel` allows, newer ones are dropped, counted in
    `dropped` and logged. An event that was not read for ``expiry`` seconds is dropped and counted in `expired`. Events
    keep the order of their arrival. Each subscriber decodes its own copy.

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
    _bytes: int = field(default=0, init=False)
    """The bytes of the events behind the first one, without `_in_front`. One event alone costs no accounting."""
    _in_front: int = field(default=0, init=False)
    """How many of the first events do not count, since they were put in front of the others."""
    _overflow: _Overflow | None = field(default=None, init=False)
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

    @property
    def oldest(self) -> float | None:
        """When the event that waits first arrived, in the time of `time.monotonic`."""
        return self._items[0][0] if self._items else None

    def put(self, entry: Timestamped, *, force: bool = False) -> None:
        """Add an event if there is room (or with ``force``), else count it as dropped. Neither waits nor raises."""
        items = self._items
        if items is None:
            self._items = deque((entry,))
        else:
            size = self._bytes + len(entry[1].message)
            is_full = size > self.stats.mailbox_bytes or len(items) - self._in_front >= self.capacity
            if is_full and not force and not self._make_room(items, entry):
                return
            items.append(entry)
            self._bytes = size if not is_full else _count_bytes(items, self._in_front)
        if entry[1].ack_handle is not None:
            entry[1].ack_handle.retain()
        if not self.notifier.notify() and self.on_unclaimed is not None:
            self.on_unclaimed(self)

    def put_back(self, entry: Timestamped) -> None:
        """Return an event that was received but not used to the head of the mailbox, whatever the capacity."""
        self.put_in_front([entry])

    def put_in_front(self, entries: list[Timestamped]) -> None:
        """Put events before all others. They do not count toward the capacity."""
        items = self._items or deque()
        if items and entries and not self._in_front:
            self._bytes += len(items[0][1].message)
        items.extendleft(reversed(entries))
        self._items = items or None
        self._in_front += len(entries)
        for _ in entries:
            self._notify()

    def _notify(self) -> None:
        if not self.notifier.notify() and self.on_unclaimed is not None:
            self.on_unclaimed(self)

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
                self._in_front = 0
            elif self._in_front > 1:
                self._in_front -= 1
            else:
                self._in_front = 0
                self._bytes -= len(items[0][1].message)
            if self._overflow is not None:
                self._log_recovered(items)
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
        self._bytes = self._in_front = 0
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
        oldest, before = now - self.expiry, len(items)
        while items and items[0][0] < oldest:
            self._count_expired(items.popleft()[1])
        if len(items) < before:
            self._in_front = max(0, self._in_front - before + len(items))
            self._bytes = _count_bytes(items, self._in_front)

    def _count_expired(self, event: Event[bytes]) -> None:
        release(event)
        self.expired += 1
        self.stats.expired += 1

    def _make_room(self, items: deque[Timestamped], entry: Timestamped) -> bool:
        """Drop what has expired. Returns whether there is room for an event then; if not, it is counted as dropped."""
        self._drop_expired(items, entry[0])
        if len(items) - self._in_front >= self.capacity:
            limit = f"capacity {self.capacity}"
        elif items and self._bytes + len(entry[1].message) > self.stats.mailbox_bytes:
            limit = f"mailbox_bytes {self.stats.mailbox_bytes}"
        else:
            return True
        self.dropped += 1
        self.stats.dropped += 1
        if self._overflow is None:
            self._overflow = _Overflow(self.stats.log_overflow(self.name, limit))
        self._overflow.dropped += 1
        return False

    def _log_recovered(self, items: deque[Timestamped]) -> None:
        """Log it when half of the mailbox is free again."""
        overflow = self._overflow
        half_full = len(items) - self._in_front > self.capacity // 2 or self._bytes > self.stats.mailbox_bytes // 2
        if overflow is not None and not half_full:
            self._overflow = None
            if overflow.logged:
                self.stats.log_recovered(self.name, overflow.dropped)


def _count_bytes(items: deque[Timestamped], in_front: int) -> int:
    """Return the bytes of the events behind the first one, without the first ``in_front``."""
    return sum(len(event.message) for _, event in islice(items, max(1, in_front), None))


def release(event: Event[bytes]) -> None:
    """Release an event's ack handle, if it has one."""
    if event.ack_handle is not None:
        event.ack_handle.release()
