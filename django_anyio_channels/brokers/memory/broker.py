"""The in-memory broker: the tables that the layers of a process share, behind one lock."""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from time import monotonic

from ...core.events import Event, Gap, PublishResult
from ...core.exceptions import QueueFull
from ...core.inspection import QueueState
from ...core.telemetry import queue_for
from ..common.entries import NOWHERE, entry_id
from ..common.history import HistoryPage, as_events
from .bindings import Bindings
from .deliveries import PendingWork
from .history import HistoryLimits, HistoryStore
from .idempotency import IdempotencyKeys
from .inbox import Inbox
from .presence import PresenceTable
from .queues import Queue, Reader

_SWEEP_SECONDS = 60.0

# To make a named tuple takes a tenth of the time of a publish, and half of that without its Python function.
_result = lru_cache(maxsize=1000)(PublishResult)
_new_result: Callable[[type[PublishResult], tuple[object, ...]], PublishResult] = tuple.__new__


Keep = Callable[[str, bytes], Event[bytes]]
"""Keeps a message in the history of its group, and returns its event."""


Patterns = dict[str, tuple[re.Pattern[str], dict[Inbox, None]]]


class InMemoryBroker:
    """Shared state of `InMemoryChannelLayer` objects: layers with the same broker are connected.

    Every method may be called from any thread. A forked child begins with an empty broker.
    """

    def __init__(self) -> None:
        self._histories = HistoryStore()
        self._reset()
        _brokers.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, dict[Inbox, None]] = {}
        self._patterns: Patterns = {}
        self._queues: dict[str, Queue] = {}
        self._bindings = Bindings()
        self._next_sweep = 0.0
        self._keys = IdempotencyKeys()
        self._histories.clear()
        self.work: PendingWork = PendingWork(self._lock, self._get_queue, self._histories.get)
        """What waits to be acknowledged."""
        self.presence: PresenceTable = PresenceTable()

    def subscribe(self, group: str, inbox: Inbox, since: bytes | None = None) -> None:
        """Subscribe; with ``since``, what was published after this position comes first, or a `Gap`."""
        with self._lock:
            self._topics.setdefault(group, {})[inbox] = None
            if since is not None:
                self._catch_up(group, inbox, since)

    def _catch_up(self, group: str, inbox: Inbox, since: bytes) -> None:
        missed: list[Event[bytes]] = []
        reached, last = since, b""
        while reached != last:
            last, entries = self._histories.page(group, reached)
            if reached != last and (not entries or entries[0].previous_id != entry_id(reached)):
                missed = [Gap(group, b"")]  # all or nothing
                break
            missed += as_events(group, entries)
            reached = entries[-1].position if entries else last
        inbox.events.extend(missed)
        inbox.notifier.notify()

    def unsubscribe(self, group: str, inbox: Inbox) -> None:
        with self._lock:
            subscribed = self._topics.get(group, {})
            subscribed.pop(inbox, None)
            if not subscribed:
                self._topics.pop(group, None)

    def subscribe_pattern(self, pattern: str, inbox: Inbox) -> None:
        with self._lock:
            if pattern not in self._patterns:
                self._patterns[pattern] = (re.compile(fnmatch.translate(pattern)), {})
            self._patterns[pattern][1][inbox] = None

    def unsubscribe_pattern(self, pattern: str, inbox: Inbox) -> None:
        with self._lock:
            _, subscribed = self._patterns.get(pattern, (None, {}))
            subscribed.pop(inbox, None)
            if not subscribed:
                self._patterns.pop(pattern, None)

    def disconnect(self, inbox: Inbox) -> None:
        """End all subscriptions of a layer."""
        with self._lock:
            self._disconnect(inbox)

    def _cut_off(self, inbox: Inbox) -> None:
        """End the subscriptions of a layer that left too much unread, and remember from where on it missed events."""
        unread = Counter(event.group for event in inbox.events if event.subscription is None)
        gaps = {event.group for event in inbox.events if isinstance(event, Gap)}
        for group, subscribed in self._topics.items():
            if inbox in subscribed and self._histories.keeps(group):
                history = self._histories.get(group)
                reached = history.position_of(history.last - unread[group])
                inbox.resume_at[group] = NOWHERE if group in gaps else reached
        inbox.patterns = {pattern for pattern, (_, subscribed) in self._patterns.items() if inbox in subscribed}
        inbox.events.clear()
        self._disconnect(inbox)

    def _disconnect(self, inbox: Inbox) -> None:
        for group in [group for group, subscribed in self._topics.items() if inbox in subscribed]:
            del self._topics[group][inbox]
            if not self._topics[group]:
                del self._topics[group]
        for pattern in [pattern for pattern, (_, subscribed) in self._patterns.items() if inbox in subscribed]:
            del self._patterns[pattern][1][inbox]
            if not self._patterns[pattern][1]:
                del self._patterns[pattern]

    def set_event_handler(self, inbox: Inbox, handler: Callable[[Event[bytes]], None]) -> None:
        """Have a layer's events handed to ``handler``."""
        with self._lock:  # another thread may be adding an event
            inbox.events = queue_for(handler, inbox.events)
            inbox.handler = handler

    def publish(self, group: str, message: bytes, keep: Keep | None = None) -> PublishResult:
        """Hand an event to every subscribed layer, and return how many there were and which queues are bound.

        ``keep`` makes the event of one that is kept in a history.
        """
        handlers: list[Callable[[Event[bytes]], None]] = []
        with self._lock:
            subscribed = self._topics.get(group, ())
            event = Event(group, message) if keep is None else keep(group, message)
            thread = threading.get_ident()
            dead = []
            for inbox in subscribed:
                handler = inbox.usable_handler() if inbox.thread == thread else None
                if handler is not None:
                    handlers.append(handler)
                elif not inbox.deliver(event):
                    dead.append(inbox)
            receivers = len(subscribed) - len(dead)
            if self._patterns:
                receivers = _publish_to_patterns(self._patterns, set(subscribed), event, dead)
            for inbox in dead:
                self._cut_off(inbox)
            result = _result(receivers) if keep is None else _new_result(PublishResult, (receivers, event.position, ()))
            if group in self._bindings.by_group:
                result = PublishResult(receivers, event.position, self._bindings.of(group))
        # Last, and without the lock: a group may have thousands of members.
        for handler in handlers:
            handler(event)
        return result

    def publish_once(
        self, group: str, message: bytes, key: str, seconds: float, keep: Keep | None = None
    ) -> PublishResult:
        """`publish`, or return the first result of the key with the queues that are bound now."""
        with self._keys.lock:
            if (known := self._keys.get((group, key))) is None:
                known = self.publish(group, message, keep)
                self._keys.add((group, key), known, seconds)
        with self._lock:
            return known._replace(bound_queues=self._bindings.of(group))

    def keep_history(self, limits: HistoryLimits) -> Keep | None:
        """Set how much is kept of each group, and return what has `publish` keep it.

        All layers of a broker must ask for the same. Raises `ValueError` for something else.
        """
        self._histories.configure(limits)
        return self._histories.append if limits.length else None

    def disable_history(self, group: str) -> None:
        with self._lock:
            self._histories.disable(group)

    def history_page(self, group: str, reached: bytes) -> HistoryPage:
        """See `HistoryStore.page`."""
        with self._lock:
            return self._histories.page(group, reached)

    def latest(self, group: str, limit: int | None) -> list[Event[bytes]]:
        """See `HistoryStore.latest`."""
        with self._lock:
            return as_events(group, self._histories.latest(group, limit))

    def position(self, group: str) -> str:
        with self._lock:
            return self._histories.get(group).position.decode()

    def put(self, queue: str, message: bytes, capacity: int, expiry: float) -> None:
        """Append to a queue. Raises `QueueFull`."""
        now = monotonic()
        with self._lock:
            if now >= self._next_sweep:
                self._sweep(now)
            waiting = self._queues.setdefault(queue, Queue())
            waiting.drop_expired(now)
            if len(waiting.messages) >= capacity:
                raise QueueFull(queue, capacity)
            waiting.messages.append((now + expiry, message))
            waiting.wake_reader()

    def put_once(self, queue: str, message: bytes, capacity: int, expiry: float, key: str, seconds: float) -> None:
        """`put`, unless the key has put before. Raises `QueueFull`."""
        with self._keys.lock:
            if self._keys.get((queue, key)) is None:
                self.put(queue, message, capacity, expiry)
                self._keys.add((queue, key), PublishResult(), seconds)

    def take_nowait(self, queue: str, reader: Reader) -> bytes | None:
        """Return the oldest message; if there is none, ``reader`` is woken when there may be one."""
        with self._lock:
            waiting = self._queues.setdefault(queue, Queue())
            message = waiting.pop(monotonic())
            if message is None:
                waiting.readers.append(reader)
            elif waiting.unused:
                del self._queues[queue]
            return message

    def stop_waiting(self, queue: str, reader: Reader) -> None:
        """Remove a reader that `take_nowait` left waiting; if it was woken already, another one is woken instead."""
        with self._lock:
            waiting = self._queues.get(queue)
            if waiting is not None:
                waiting.stop_waiting(reader)
                if waiting.unused:
                    del self._queues[queue]

    def queue_length(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        with self._lock:
            waiting = self._queues.get(queue)
            return len(waiting.messages) if waiting else 0

    def bind(self, group: str, queue: str, capacity: int, expiry: float, lifetime: float) -> None:
        with self._lock:
            self._bindings.bind(group, queue, capacity, expiry, lifetime)

    def unbind(self, group: str, queue: str) -> None:
        with self._lock:
            self._bindings.unbind(group, queue)

    def purge(self, prefix: str) -> None:
        with self._lock:
            for name, queue in list(self._queues.items()):
                if name.startswith(prefix):
                    queue.messages.clear()
            self._prune()
            self._bindings.purge(prefix)
            self._histories.purge(prefix)
        self.work.purge(prefix)
        self._keys.purge(prefix)

    def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        now = monotonic()
        with self._lock:
            found = [(name, queue) for name, queue in self._queues.items() if name.startswith(prefix)][:limit]
            return [queue.state(name, now) for name, queue in found]

    def _get_queue(self, queue: str) -> Queue:
        return self._queues.setdefault(queue, Queue())

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + _SWEEP_SECONDS
        for queue in self._queues.values():
            queue.drop_expired(now)
        self._prune()
        self._bindings.drop_ended(now)
        self.work.sweep()

    def _prune(self) -> None:
        self._queues = {name: queue for name, queue in self._queues.items() if not queue.unused}


def _publish_to_patterns(patterns: Patterns, reached: set[Inbox], event: Event[bytes], dead: list[Inbox]) -> int:
    """Deliver an event by patterns, too; ``dead`` gets inboxes that are closed. Return how many inboxes it reached."""
    for pattern, (regex, inboxes) in patterns.items():
        if regex.match(event.group):
            found = Event(event.group, event.message, pattern, None, event.position)
            reached.update(inboxes)
            dead.extend(inbox for inbox in inboxes if not inbox.deliver(found))
    return len(reached.difference(dead))


_brokers: weakref.WeakSet[InMemoryBroker] = weakref.WeakSet()


def _reset_brokers() -> None:
    for broker in _brokers:
        broker._reset()


# A child owns neither the parent's event loops nor its messages, and a lock may have been held while forking.
os.register_at_fork(after_in_child=_reset_brokers)
