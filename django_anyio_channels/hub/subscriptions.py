"""The registry of wanted groups and patterns, and what the broker knows of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import Protocol

import anyio

from ..core.events import Event, Gap
from ..core.exceptions import ChannelLayerError, ListenerClosed
from ..core.layer import BaseChannelLayer, subscribing
from ..core.notifier import NewWaiter, Notifier
from ..core.serializers import MARKER
from ..core.stats import RateLimitedLogger
from .session import Session, logger
from .subscriber import Timestamped

_AT_ONCE = 500


class Sink(Protocol):
    """A receiver of the fan-out."""

    def put(self, entry: Timestamped) -> None:
        """Take an event. Neither waits nor raises."""

    def close(self) -> None:
        """Called when no more events will come."""


class MarkedReader(Protocol):
    """What the messages that begin with `MARKER` say of those who get them."""

    def fan_out(self, entry: Timestamped, sinks: Iterable[Sink]) -> tuple[Timestamped, Iterable[Sink]]:
        """Return what to put for an event, and into which of the group's sinks. Neither waits nor raises."""

    def of_history(self, events: list[Event[bytes]]) -> list[Event[bytes]]:
        """Return what there is for a sink in events of a group's history."""

    def for_queue(self, payload: bytes, queue: str) -> bytes | None:
        """Return what to put into a queue that is bound to the group, if anything. Raises `DecodeError`."""


@dataclass(slots=True, eq=False)
class _PendingAttach:
    """The `add_sink` calls that wait for one sink's subscription; the last one to fail removes the sink."""

    calls: int = 0


@dataclass(slots=True, eq=False)
class Subscription:
    """One group or pattern: its sinks, and the sessions in which the broker was asked for it."""

    name: str
    table: dict[str, Subscription]
    subscribe: Callable[[str], Awaitable[None]]
    unsubscribe: Callable[[str], Awaitable[None]]
    changed: Notifier
    """Notifies when `busy` ends."""
    busy: bool = False
    """Whether a call to the broker about this name is in flight."""
    sinks: dict[Sink, _PendingAttach | None] = field(default_factory=dict)
    """Each with the `add_sink` calls that wait for its subscription, until the first of them succeeds."""
    requested_in: Session | None = None
    """The session in which a subscription was requested."""
    confirmed_in: Session | None = None
    """The session in which the broker has confirmed the subscription."""


class SubscriptionRegistry:
    """Fans events out to sinks, and keeps the broker's subscriptions equal to what the sinks want.

    The tables change at once, before any I/O. A cancellation can only hit the I/O, and `prune_unused` completes it.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        wait_connected: Callable[[], Awaitable[Session]],
        new_waiter: NewWaiter,
        on_missed: Callable[[str, float | None], None],
        on_resubscribed: Callable[[str, float], None],
        marked: MarkedReader | None = None,
    ) -> None:
        """``on_missed`` is called with the group or pattern and the seconds of each `Gap`.

        ``on_resubscribed`` is called with one that the broker refused for a time, and the seconds of that time.
        """
        self._layer = layer
        self._marked = marked
        self._on_missed = on_missed
        self._on_resubscribed = on_resubscribed
        self._wait_connected = wait_connected
        self._new_waiter = new_waiter
        self._groups: dict[str, Subscription] = {}
        self._patterns: dict[str, Subscription] = {}
        self._session: Session | None = None
        self._unused: dict[Subscription, None] = {}
        self._pruning = Notifier(new_waiter)
        self._refused: dict[Subscription, float] = {}
        """The subscriptions that the broker refused to restore in this session, and since when."""
        self._was_refused = Notifier(new_waiter)
        self._log = RateLimitedLogger()

    def __len__(self) -> int:
        return len(self._groups) + len(self._patterns)

    def members(self) -> Iterator[tuple[str, int]]:
        """Return each group and its number of sinks."""
        return ((name, len(each.sinks)) for name, each in self._groups.items() if each.sinks)

    def deliver(self, event: Event[bytes]) -> None:
        """Put an event into every sink that wants it."""
        if isinstance(event, Gap):
            self._on_missed(event.group, event.seconds)
            return
        name = event.subscription
        if name is None:
            subscription = self._groups.get(event.group)
        else:
            subscription = self._patterns.get(name) or self._groups.get(name)
        if subscription is not None:
            entry = (monotonic(), event)
            sinks: Iterable[Sink] = subscription.sinks
            if event.message[:1] == MARKER and self._marked is not None:
                entry, sinks = self._marked.fan_out(entry, sinks)
            for sink in sinks:
                sink.put(entry)
        if event.ack_handle is not None:
            event.ack_handle.release()

    def count_sinks(self, event: Event[bytes]) -> int:
        """Return how many sinks want an event."""
        name = event.subscription or event.group
        subscription = (event.subscription and self._patterns.get(name)) or self._groups.get(name)
        return len(subscription.sinks) if subscription else 0

    async def add_sink(self, name: str, sink: Sink, *, pattern: bool = False) -> None:
        """Add a sink. In effect for every later publish when it returns; if it raises, the sink is not added."""
        subscription = self._subscription(name, pattern)
        session = self._session
        if session is not None and subscription.confirmed_in is session and session.error is None:
            subscription.sinks[sink] = None
            return
        pending = subscription.sinks.setdefault(sink, _PendingAttach())
        if pending is None:
            await self._confirm(subscription)
            return
        pending.calls += 1
        try:
            await self._confirm(subscription)
        except BaseException:
            pending.calls -= 1
            if not pending.calls and subscription.sinks.get(sink) is pending:
                self._remove(subscription, sink)
            raise
        if subscription.sinks.get(sink) is pending:
            subscription.sinks[sink] = None

    def has_sink(self, name: str, sink: Sink) -> bool:
        """Return whether a group has this sink, or an `add_sink` call waits for it."""
        subscription = self._groups.get(name)
        return subscription is not None and sink in subscription.sinks

    def remove_sink(self, name: str, sink: Sink, *, pattern: bool = False) -> None:
        """Remove a sink at once; `prune_unused` unsubscribes."""
        subscription = (self._patterns if pattern else self._groups).get(name)
        if subscription is not None:
            self._remove(subscription, sink)

    async def restore(self, session: Session) -> None:
        """Subscribe to everything that is wanted, in a new session."""
        self._session = session
        self._refused.clear()
        subscriptions = iter([*self._groups.values(), *self._patterns.values()])
        while batch := list(islice(subscriptions, _AT_ONCE)):
            async with anyio.create_task_group() as tasks:
                for subscription in batch:
                    tasks.start_soon(self._restore, subscription, session)

    async def prune_unused(self) -> None:
        """Unsubscribe from what has no sinks, until cancelled."""
        while True:
            while self._unused:
                subscription, _ = self._unused.popitem()
                await self._unsubscribe_unused(subscription)
            await self._pruning.wait()

    async def retry_refused(self, seconds: float) -> None:
        """Retry refused subscriptions every ``seconds``, until cancelled."""
        while True:
            while self._refused:
                await anyio.sleep(seconds)
                await self._retry_refused()
            await self._was_refused.wait()

    async def _retry_refused(self) -> None:
        for subscription, since in list(self._refused.items()):
            session = self._session
            if session is None or session.catches_up is None or session.error is not None:
                return  # this session is not up yet, or over; `restore` does all in the next one
            await self._restore(subscription, session)
            if self._session is session and (subscription.confirmed_in is session or not subscription.sinks):
                del self._refused[subscription]
                if subscription.sinks and not session.catches_up:
                    self._on_resubscribed(subscription.name, monotonic() - since)

    def close(self) -> None:
        """Close every sink."""
        for subscription in [*self._groups.values(), *self._patterns.values()]:
            for sink in list(subscription.sinks):
                sink.close()
        self._groups.clear()
        self._patterns.clear()

    def _subscription(self, name: str, pattern: bool) -> Subscription:
        table = self._patterns if pattern else self._groups
        subscription = table.get(name)
        if subscription is None:
            subscribe = self._layer.subscribe_pattern if pattern else self._layer.subscribe
            unsubscribe = self._layer.unsubscribe_pattern if pattern else self._layer.unsubscribe
            subscription = table[name] = Subscription(name, table, subscribe, unsubscribe, Notifier(self._new_waiter))
        return subscription

    def _remove(self, subscription: Subscription, sink: Sink) -> None:
        subscription.sinks.pop(sink, None)
        if not subscription.sinks:
            self._unused[subscription] = None
            self._pruning.notify()

    async def _confirm(self, subscription: Subscription) -> None:
        while True:
            session = await self._wait_connected()
            if subscription.confirmed_in is session:
                return
            if subscription.busy:
                await subscription.changed.wait()
            else:
                await self._subscribe(subscription, session)

    async def _restore(self, subscription: Subscription, session: Session) -> None:
        while subscription.busy:
            await subscription.changed.wait()
        if subscription.sinks:
            try:
                await self._subscribe(subscription, session)
            except Exception as error:
                trace = None if isinstance(error, ChannelLayerError) else error
                text = "Could not restore the subscription to %s; retrying, without messages until then: %r"
                self._log.write(logging.ERROR, text, subscription.name, error, exc_info=trace)
                self._refused.setdefault(subscription, monotonic())
                self._was_refused.notify()

    async def _subscribe(self, subscription: Subscription, session: Session) -> None:
        with _Calling(subscription, session):
            subscription.requested_in = session
            await subscription.subscribe(subscription.name)
            subscription.confirmed_in = session

    async def _unsubscribe_unused(self, subscription: Subscription) -> None:
        while subscription.busy:
            await subscription.changed.wait()
        if subscription.sinks:
            return
        session = self._session
        if session is not None and subscription.requested_in is session and session.error is None:
            try:
                with _Calling(subscription, session):
                    subscription.confirmed_in = subscription.requested_in = None
                    await subscription.unsubscribe(subscription.name)
            except Exception:
                logger.exception("Could not unsubscribe from %s", subscription.name)
        if not subscription.sinks and subscription.table.get(subscription.name) is subscription:
            del subscription.table[subscription.name]


class _Calling:
    """Calls the broker about a subscription; a connection that breaks meanwhile ends the session."""

    # A generator with `contextmanager` would take a third of the time that joining a group in memory takes.
    __slots__ = ("_session", "_subscription", "_token")

    def __init__(self, subscription: Subscription, session: Session) -> None:
        self._subscription = subscription
        self._session = session

    def __enter__(self) -> None:
        self._subscription.busy = True
        self._token = subscribing.set(self._subscription.name)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        subscribing.reset(self._token)
        self._subscription.busy = False
        self._subscription.changed.notify_all()
        if not isinstance(error, ListenerClosed):
            return False
        self._session.fail(error)
        return True
