"""The mailbox: the only place where messages wait for a reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from ..core.events import Event
from ..core.exceptions import DecodeError, ListenerClosed
from ..core.notifier import Bell, NewWaiter
from ..core.stats import Losses

Entry = tuple[float, Event[bytes]]
"""An event and the time (`time.monotonic`) at which it arrived; shared by all mailboxes that get it."""


class Subscriber:
    """A bounded mailbox; `Channel.subscribe` makes it.

    Iterate over it, or await `receive`; several tasks may, and each event goes to one of them. Cancelling them loses
    nothing. When ``capacity`` events wait, newer ones are dropped, counted in `dropped` and logged. An event that
    nobody read for ``expiry`` seconds is thrown away and counted in `expired`. Events come in the order in which they
    arrived; each is decoded anew for each subscriber, so nobody else sees what a reader does to it.

    Where the broker wants events acknowledged, that is done when a reader takes one, or with ``manual_ack`` by
    `Event.ack`; what is dropped or thrown away is acknowledged too.
    """

    __slots__ = (
        "_closed",
        "_decode",
        "_dropped_since_full",
        "_items",
        "_losses",
        "_manual_ack",
        "_told",
        "bell",
        "capacity",
        "dropped",
        "expired",
        "expiry",
        "fetch",
        "name",
        "unattended",
    )

    def __init__(
        self,
        name: str,
        *,
        capacity: int,
        expiry: float | None,
        decode: Callable[[bytes], Any],
        new_waiter: NewWaiter,
        losses: Losses,
        manual_ack: bool = False,
    ) -> None:
        self.name = name
        """What logs call this mailbox."""
        self.capacity = capacity
        self.expiry = expiry
        self.dropped = 0
        """Events that found this mailbox full."""
        self.expired = 0
        """Events that nobody read in time."""
        self.unattended: Callable[[Subscriber], object] | None = None
        """Called with this mailbox when an event was put that no task waits for."""
        self.fetch: Callable[[], Awaitable[None]] | None = None
        """Puts an event here; awaited when a reader wants one and none waits, if events do not come by themselves."""
        self._decode = decode
        self._losses = losses
        self._manual_ack = manual_ack
        self.bell = Bell(new_waiter)
        """Rings when there may be something for `receive_nowait`."""
        # A deque takes 600 bytes, and most mailboxes are empty most of the time.
        self._items: deque[Entry] | None = None
        self._dropped_since_full = 0
        self._told = False
        self._closed = False

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._items) if self._items else 0

    @property
    def waited_for(self) -> bool:
        """Whether a task waits for the next event."""
        return self.bell.waited_for

    def put(self, entry: Entry, *, anyway: bool = False) -> None:
        """Add an event, ``anyway`` or if there is room; else count it as dropped. Never waits, never raises."""
        items = self._items
        if items is None:
            items = self._items = deque()
        if len(items) >= self.capacity and not anyway:
            self._forget_expired(items, entry[0])
            if len(items) >= self.capacity:
                self._drop()
                return
        items.append(entry)
        if entry[1].receipt is not None:
            entry[1].receipt.hold()
        if not self.bell.ring() and self.unattended is not None:
            self.unattended(self)

    def put_back(self, entry: Entry) -> None:
        """Return an event that was received but not used; it is the next one again, whatever the capacity."""
        if self._items is None:
            self._items = deque()
        self._items.appendleft(entry)
        self.bell.ring()

    async def receive(self) -> Event[Any]:
        """Wait for the next event. Raises `ListenerClosed` once the mailbox is closed and empty."""
        while True:
            event = self.receive_nowait()
            if event is not None:
                return event
            if self._closed:
                raise ListenerClosed(f"{self.name} is closed")
            await (self.bell.wait() if self.fetch is None else self.fetch())

    def receive_nowait(self) -> Event[Any] | None:
        """The next event, or None if none waits."""
        found = self.take()
        if found is None:
            return None
        event, message = found
        receipt = event.receipt if self._manual_ack else None
        return Event(event.group, message, event.subscription, receipt, event.position, event.deliveries)

    def take(self) -> tuple[Event[bytes], Any] | None:
        """The next event as it came from the broker, and its message decoded; None if none waits."""
        items = self._items
        while items:
            arrived, event = items.popleft()
            if not items:
                self._items = None
            if self._dropped_since_full and len(items) <= self.capacity // 2:
                self._room_again()
            if self.expiry is not None and arrived < monotonic() - self.expiry:
                self._count_expired(event)
                continue
            try:
                message = self._decode(event.message)
            except DecodeError as error:
                self._losses.frame_undecodable(self.name, error)
                settle(event)
                continue
            if event.receipt is not None and not self._manual_ack:
                event.receipt.settle()
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
        """Let readers take what waits, then end."""
        self._closed = True
        self.bell.ring_all()

    def clear(self) -> None:
        """Throw away what waits."""
        items, self._items = self._items, None
        for _, event in items or ():
            settle(event)

    def forget_expired(self, now: float) -> None:
        """Throw away what has waited for longer than ``expiry`` at ``now`` (`time.monotonic`)."""
        if self._items:
            self._forget_expired(self._items, now)
            if not self._items:
                self._items = None

    def _forget_expired(self, items: deque[Entry], now: float) -> None:
        if self.expiry is None:
            return
        oldest = now - self.expiry
        while items and items[0][0] < oldest:
            self._count_expired(items.popleft()[1])

    def _count_expired(self, event: Event[bytes]) -> None:
        settle(event)
        self.expired += 1
        self._losses.expired += 1

    def _drop(self) -> None:
        self.dropped += 1
        self._losses.dropped += 1
        self._dropped_since_full += 1
        if self._dropped_since_full == 1:
            self._told = self._losses.mailbox_full(self.name, self.capacity)

    def _room_again(self) -> None:
        if self._told:
            self._losses.room_again(self.name, self._dropped_since_full)
        self._dropped_since_full = 0


def settle(event: Event[bytes]) -> None:
    """Be done with an event, whether its broker wants to know or not."""
    if event.receipt is not None:
        event.receipt.settle()
