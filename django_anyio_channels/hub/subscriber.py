"""The bounded mailbox: the only buffer of messages that wait for a reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from itertools import islice
from time import monotonic
from typing import Any, Protocol

from ..core.events import Event
from ..core.exceptions import ChannelLayerError, DecodeError, ListenerClosed
from ..core.notifier import NewWaiter, Notifier
from ..core.stats import DeliveryStats

Timestamped = tuple[float, Event[bytes]]
"""The time of arrival (`time.monotonic`) and the event; shared by all mailboxes that receive it."""


class Overflow(Protocol):
    """What happens to the events for a full mailbox, see `overflow`; one object is for any number of mailboxes."""

    @property
    def mailbox_class(self) -> type[Subscriber]:
        """The class of the mailboxes."""

    def make_room(self, mailbox: Subscriber, accounts: Accounts, items: deque[Timestamped], size: int) -> bool:
        """Make room for an event of ``size`` bytes. Returns whether there is some; if not, the event is dropped."""


@dataclass(slots=True)
class Accounts:
    """What is counted of a mailbox that needs it, from the first event that may not fit until it is empty."""

    bytes: int
    """The bytes of the events behind the first one, without those in front."""
    in_front: int = 0
    """How many of the first events do not count, since they were put in front of the others."""
    is_logged: bool = False
    """Whether it was logged that events are dropped."""
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
    overflow: Overflow | None = None
    """What happens when it is full; None to drop newer events."""
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
    # A deque takes 600 bytes, and most mailboxes hold one event at most most of the time.
    _only: Timestamped | None = field(default=None, init=False)
    """The event, if there is one only and it came to an empty mailbox; else it is in the deque."""
    _items: deque[Timestamped] | None = field(default=None, init=False)
    accounts: Accounts | None = field(default=None, init=False)
    _unchecked: int = field(init=False)
    """As many events are put without a further look, if they are small."""
    _small: int = field(init=False)
    """As many bytes may each of ``capacity`` events have; they fit in any case."""
    _closed: bool | ChannelLayerError = field(default=False, init=False)
    """Whether it is closed, or why."""

    def __post_init__(self, new_waiter: NewWaiter) -> None:
        self.notifier = Notifier(new_waiter)
        self._unchecked = self.capacity
        self._small = self.stats.mailbox_bytes // (self.capacity or 1)

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._items or ()) if self._only is None else 1

    @property
    def oldest(self) -> float | None:
        """When the next event arrived (`time.monotonic`), or None. May be called in any thread."""
        only = self._only
        if only is not None:
            return only[0]
        try:
            return self._items[0][0] if self._items else None
        except IndexError:  # taken by its reader meanwhile
            return None

    @property
    def has_waiters(self) -> bool:
        """Whether a task waits for the next event."""
        return self.notifier.has_waiters

    def put(self, entry: Timestamped, *, force: bool = False) -> None:
        """Add an event if there is room (or with ``force``), else count it as dropped. Neither waits nor raises."""
        items = self._items if self._only is None else self._as_deque()
        if items is None:
            self._only = entry
        elif len(items) < self._unchecked and len(entry[1].message) <= self._small:
            items.append(entry)
        elif not self._put_counted(items, entry, force):
            return
        if entry[1].ack_handle is not None:
            entry[1].ack_handle.retain()
        if not self.notifier.notify() and self.on_unclaimed is not None:
            self.on_unclaimed(self)

    def _as_deque(self) -> deque[Timestamped]:
        """Return all events; the mailbox keeps them in it."""
        if self._items is None:
            self._items = deque(() if self._only is None else (self._only,))
            self._only = None
        return self._items

    def _put_counted(self, items: deque[Timestamped], entry: Timestamped, force: bool) -> bool:
        """Do what `put` does where it must be counted. Returns whether the event was added."""
        accounts = self.accounts or self.begin_counting(items)
        size = len(entry[1].message)
        if not force and limit_reached(self, accounts, items, size):
            self._drop_expired(items, entry[0])
            limit = limit_reached(self, accounts, items, size)
            if limit and not (self.overflow is not None and self.overflow.make_room(self, accounts, items, size)):
                self.count_dropped(accounts, limit)
                return False
        accounts.bytes += size if items else 0
        items.append(entry)
        return True

    def begin_counting(self, items: deque[Timestamped]) -> Accounts:
        self._unchecked = 0
        self.accounts = accounts = Accounts(_count_bytes(items, 0))
        return accounts

    def count_dropped(self, accounts: Accounts, limit: str) -> None:
        """Count and log that an event was dropped because of a limit."""
        self.dropped += 1
        self.stats.dropped += 1
        self.stats.dropped_bytes += limit.startswith("mailbox_bytes")
        if not accounts.dropped:
            accounts.is_logged = self.stats.log_overflow(self.name, limit)
        accounts.dropped += 1

    def put_back(self, entry: Timestamped) -> None:
        """Return an event that was received but not used to the head of the mailbox, whatever the capacity."""
        self.put_in_front([entry])

    def put_in_front(self, entries: list[Timestamped]) -> None:
        """Put events before all others. They do not count toward the capacity."""
        if not entries:
            return
        items = self._as_deque()
        accounts = self.accounts or self.begin_counting(items)
        if items and not accounts.in_front:
            accounts.bytes += len(items[0][1].message)
        items.extendleft(reversed(entries))
        accounts.in_front += len(entries)
        for _ in entries:
            self._notify()

    def _notify(self) -> None:
        if not self.notifier.notify() and self.on_unclaimed is not None:
            self.on_unclaimed(self)

    async def receive(self) -> Event[Any]:
        """Wait for the next event. Raises `ListenerClosed`, or the error of `close`, once it is closed and empty."""
        while True:
            event = self.receive_nowait()
            if event is not None:
                return event
            if self._closed:
                raise ListenerClosed(f"{self.name} is closed") if self._closed is True else self._closed
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
        while True:
            if self._only is not None:
                arrived, event = self._only
                self._only = None
            elif items:
                arrived, event = items.popleft()
                if not items:
                    self._items = None
            else:
                return None
            if self.accounts is not None:
                self._count_taken(self.accounts, items)
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

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> Event[Any]:
        try:
            return await self.receive()
        except ListenerClosed:
            raise StopAsyncIteration from None

    def close(self, error: ChannelLayerError | None = None) -> None:
        """Let readers take the waiting events, then raise ``error``, or else `ListenerClosed`: the end."""
        self._closed = self._closed or error or True
        self.notifier.notify_all()

    def clear(self) -> None:
        """Drop the waiting events."""
        items, self._items = self._as_deque(), None
        if self.accounts is not None:
            self.accounts.bytes = self.accounts.in_front = 0
        for _, event in items:
            release(event)

    def drop_expired(self, now: float) -> None:
        """Drop events that have waited for longer than ``expiry`` at ``now`` (`time.monotonic`)."""
        if len(self):
            items = self._as_deque()
            self._drop_expired(items, now)
            if not items:
                self._items = None

    def _drop_expired(self, items: deque[Timestamped], now: float) -> None:
        if self.expiry is None:
            return
        oldest, before = now - self.expiry, len(items)
        while items and items[0][0] < oldest:
            self._count_expired(items.popleft()[1])
        accounts = self.accounts
        if accounts is not None and len(items) < before:
            accounts.in_front = max(0, accounts.in_front - before + len(items))
            accounts.bytes = _count_bytes(items, accounts.in_front)

    def _count_expired(self, event: Event[bytes]) -> None:
        release(event)
        self.expired += 1
        self.stats.expired += 1

    def _count_taken(self, accounts: Accounts, items: deque[Timestamped] | None) -> None:
        if accounts.in_front > 1:
            accounts.in_front -= 1
        else:
            accounts.in_front = 0
            accounts.bytes -= len(items[0][1].message) if items else 0
        if accounts.dropped:
            self._log_recovered(accounts, len(items or ()))
        if not items:
            self.accounts, self._unchecked = None, self.capacity

    def _log_recovered(self, accounts: Accounts, waiting: int) -> None:
        """Log it when half of the mailbox is free again."""
        if waiting - accounts.in_front <= self.capacity // 2 and accounts.bytes <= self.stats.mailbox_bytes // 2:
            if accounts.is_logged:
                self.stats.log_recovered(self.name, accounts.dropped)
            accounts.dropped = 0


def limit_reached(mailbox: Subscriber, accounts: Accounts, items: deque[Timestamped], size: int) -> str | None:
    """Return which limit leaves no room for an event of this size, or None."""
    if len(items) - accounts.in_front >= mailbox.capacity:
        return f"capacity {mailbox.capacity}"
    if items and accounts.bytes + size > mailbox.stats.mailbox_bytes:
        return f"mailbox_bytes {mailbox.stats.mailbox_bytes}"
    return None


def _count_bytes(items: deque[Timestamped], in_front: int) -> int:
    """Return the bytes of the events behind the first one, without the first ``in_front``."""
    return sum(len(event.message) for _, event in islice(items, max(1, in_front), None))


def release(event: Event[bytes]) -> None:
    """Release an event's ack handle, if it has one."""
    if event.ack_handle is not None:
        event.ack_handle.release()
