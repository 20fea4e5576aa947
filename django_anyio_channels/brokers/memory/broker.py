"""The in-memory broker: the tables that the layers of a process share, behind one lock."""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import Any

from anyio.lowlevel import current_token

from ...core.events import BoundQueue, Event, PublishResult
from ...core.exceptions import QueueFull
from ...core.inspection import QueueState
from ...core.notifier import Notifier, waiter_type

_MAX_UNREAD_EVENTS = 100_000
"""A layer that leaves so many events unread is cut off, as network brokers do."""
_SWEEP_SECONDS = 60.0

# To make a named tuple takes a tenth of the time of a publish.
_result = lru_cache(maxsize=1000)(PublishResult)


class InMemoryBroker:
    """Shared state of `InMemoryChannelLayer` objects: layers with the same broker are connected.

    Every method may be called from any thread. A forked child begins with an empty broker.
    """

    def __init__(self) -> None:
        self._reset()
        _brokers.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, dict[Inbox, None]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[Inbox, None]]] = {}
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[str, dict[str, _Binding]] = {}
        self._next_sweep = 0.0

    # ---- topics -------------------------------------------------------------------------------------------------

    def subscribe(self, group: str, inbox: Inbox) -> None:
        with self._lock:
            self._topics.setdefault(group, {})[inbox] = None

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

    def _disconnect(self, inbox: Inbox) -> None:
        for group in [group for group, subscribed in self._topics.items() if inbox in subscribed]:
            del self._topics[group][inbox]
            if not self._topics[group]:
                del self._topics[group]
        for pattern in [pattern for pattern, (_, subscribed) in self._patterns.items() if inbox in subscribed]:
            del self._patterns[pattern][1][inbox]
            if not self._patterns[pattern][1]:
                del self._patterns[pattern]

    def publish(self, group: str, message: bytes) -> PublishResult:
        """Hand an event to every subscribed layer, and return how many there were and which queues are bound."""
        handlers: list[Callable[[Event[bytes]], None]] = []
        with self._lock:
            subscribed = self._topics.get(group, ())
            event = Event(group, message)
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
                receivers = self._publish_to_patterns(group, message, dead)
            for inbox in dead:
                self._disconnect(inbox)
            result = _result(receivers)
            if group in self._bindings:
                result = PublishResult(receivers, None, self._bound_queues(group))
        # Last, and without the lock: a group may have thousands of members.
        for handler in handlers:
            handler(event)
        return result

    def _publish_to_patterns(self, group: str, message: bytes, dead: list[Inbox]) -> int:
        reached = set(self._topics.get(group, ()))
        for pattern, (regex, inboxes) in self._patterns.items():
            if regex.match(group):
                event = Event(group, message, pattern)
                reached.update(inboxes)
                dead.extend(inbox for inbox in inboxes if not inbox.deliver(event))
        return len(reached.difference(dead))

    # ---- queues -------------------------------------------------------------------------------------------------

    def put(self, queue: str, message: bytes, capacity: int, expiry: float) -> None:
        """Append to a queue. Raises `QueueFull`."""
        now = monotonic()
        with self._lock:
            if now >= self._next_sweep:
                self._sweep(now)
            waiting = self._queues.setdefault(queue, _Queue())
            waiting.drop_expired(now)
            if len(waiting.messages) >= capacity:
                raise QueueFull(queue, capacity)
            waiting.messages.append((now + expiry, message))
            waiting.wake_reader()

    def take_nowait(self, queue: str, reader: Reader) -> bytes | None:
        """Return the oldest message; if there is none, ``reader`` is woken when there may be one."""
        with self._lock:
            waiting = self._queues.setdefault(queue, _Queue())
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
            if waiting is None:
                return
            if reader in waiting.readers:
                waiting.readers.remove(reader)
            else:
                waiting.wake_reader()
            if waiting.unused:
                del self._queues[queue]

    def bind(self, group: str, queue: str, capacity: int, expiry: float, lifetime: float) -> None:
        with self._lock:
            self._bindings.setdefault(group, {})[queue] = _Binding(capacity, expiry, monotonic() + lifetime)

    def unbind(self, group: str, queue: str) -> None:
        with self._lock:
            bindings = self._bindings.get(group, {})
            bindings.pop(queue, None)
            if not bindings:
                self._bindings.pop(group, None)

    def purge(self, prefix: str) -> None:
        with self._lock:
            for name, queue in list(self._queues.items()):
                if name.startswith(prefix):
                    queue.messages.clear()
            for bindings in self._bindings.values():
                for name in [name for name in bindings if name.startswith(prefix)]:
                    del bindings[name]
            self._prune()

    def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        now = monotonic()
        with self._lock:
            found = [(name, queue) for name, queue in self._queues.items() if name.startswith(prefix)][:limit]
            return [queue.state(name, now) for name, queue in found]

    def _bound_queues(self, group: str) -> list[BoundQueue]:
        now = monotonic()
        bindings = {queue: binding for queue, binding in self._bindings.pop(group).items() if binding.ends > now}
        if bindings:
            self._bindings[group] = bindings
        return [BoundQueue(queue, binding.capacity, binding.expiry) for queue, binding in bindings.items()]

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + _SWEEP_SECONDS
        for queue in self._queues.values():
            queue.drop_expired(now)
        for bindings in self._bindings.values():
            for name in [name for name, binding in bindings.items() if binding.ends <= now]:
                del bindings[name]
        self._prune()

    def _prune(self) -> None:
        self._queues = {name: queue for name, queue in self._queues.items() if not queue.unused}
        self._bindings = {group: bindings for group, bindings in self._bindings.items() if bindings}


_brokers: weakref.WeakSet[InMemoryBroker] = weakref.WeakSet()


def _reset_brokers() -> None:
    for broker in _brokers:
        broker._reset()


# A child owns neither the parent's event loops nor its messages, and a lock may have been held while forking.
os.register_at_fork(after_in_child=_reset_brokers)


class _ThreadSafeNotifier:
    """A `Notifier` for any thread; `notify` returns False once its event loop is closed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        loop: Any = current_token().native_token
        self._call_soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        self._scheduled = False
        self._notifier = Notifier(waiter_type())
        self.wait = self._notifier.wait

    def notify(self) -> bool:
        try:
            if threading.get_ident() == self._thread:
                self._notifier.notify()
            elif not self._scheduled:
                self._scheduled = True
                self._call_soon(self._notify_here)
        except RuntimeError:  # what asyncio and trio raise for a closed loop
            return False
        return True

    def _notify_here(self) -> None:
        self._scheduled = False
        self._notifier.notify()


class Inbox:
    """The events that one layer has not read yet."""

    def __init__(self) -> None:
        self.events: deque[Event[bytes]] = deque()
        self.notifier = _ThreadSafeNotifier()
        self.open = True
        self.thread = threading.get_ident()
        self.handler: Callable[[Event[bytes]], None] | None = None
        # trio cannot be asked.
        self._loop_is_running: Callable[[], bool] = getattr(current_token().native_token, "is_running", bool)

    def usable_handler(self) -> Callable[[Event[bytes]], None] | None:
        """Return the handler for an event that is published in this event loop, unless earlier ones wait."""
        return self.handler if not self.events and self.open and self._loop_is_running() else None

    def deliver(self, event: Event[bytes]) -> bool:
        """Add an event. Returns False if the event loop is closed, or too many events are unread."""
        self.events.append(event)
        if len(self.events) > _MAX_UNREAD_EVENTS:
            self.close()
        return self.notifier.notify() and self.open

    def close(self) -> None:
        self.open = False
        self.events.clear()
        self.notifier.notify()


class Reader:
    """A task that waits in `InMemoryChannelLayer.take`."""

    def __init__(self) -> None:
        self.notifier = _ThreadSafeNotifier()
        self.wake = self.notifier.notify


@dataclass(slots=True)
class _Queue:
    messages: deque[tuple[float, bytes]] = field(default_factory=deque)
    readers: deque[Reader] = field(default_factory=deque)

    @property
    def unused(self) -> bool:
        return not self.messages and not self.readers

    def pop(self, now: float) -> bytes | None:
        self.drop_expired(now)
        return self.messages.popleft()[1] if self.messages else None

    def state(self, name: str, now: float) -> QueueState:
        self.drop_expired(now)
        expires_in = self.messages[0][0] - now if self.messages else None
        return QueueState(name, len(self.messages), expires_in, readers=len(self.readers))

    def drop_expired(self, now: float) -> None:
        while self.messages and self.messages[0][0] <= now:
            self.messages.popleft()

    def wake_reader(self) -> None:
        while self.messages and self.readers:
            if self.readers.popleft().wake():
                return


@dataclass(slots=True)
class _Binding:
    capacity: int
    expiry: float
    ends: float
