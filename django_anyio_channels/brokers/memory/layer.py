"""The embedded broker: topics and queues for any number of threads and event loops of one process."""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from anyio.lowlevel import checkpoint

from ...core.events import Event
from ...core.exceptions import ListenerClosed, QueueFull
from ...core.layer import BaseChannelLayer, Put
from ...core.notifier import Bell, CallSoon, call_soon_from_thread, loop_is_running, waiter_factory
from ...core.stats import Losses

_EVENTS_BEHIND = 100_000
"""A reader that leaves so many events untouched is cut off, as network brokers do."""
_PUBLISHES_PER_TURN = 16
_SWEEP_SECONDS = 60.0


class InMemoryBroker:
    """What `InMemoryChannelLayer` objects share: give the same broker to several layers to connect them.

    Every method may be called from any thread. A forked child begins with an empty broker.
    """

    def __init__(self) -> None:
        self.losses = Losses()
        self._reset()
        _brokers.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, dict[_Mailroom, None]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[_Mailroom, None]]] = {}
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[str, dict[str, _Binding]] = {}
        self._next_sweep = 0.0

    def subscribe(self, group: str, mailroom: _Mailroom) -> None:
        with self._lock:
            self._topics.setdefault(group, {})[mailroom] = None

    def unsubscribe(self, group: str, mailroom: _Mailroom) -> None:
        with self._lock:
            subscribed = self._topics.get(group, {})
            subscribed.pop(mailroom, None)
            if not subscribed:
                self._topics.pop(group, None)

    def subscribe_pattern(self, pattern: str, mailroom: _Mailroom) -> None:
        with self._lock:
            if pattern not in self._patterns:
                self._patterns[pattern] = (re.compile(fnmatch.translate(pattern)), {})
            self._patterns[pattern][1][mailroom] = None

    def unsubscribe_pattern(self, pattern: str, mailroom: _Mailroom) -> None:
        with self._lock:
            _, subscribed = self._patterns.get(pattern, (None, {}))
            subscribed.pop(mailroom, None)
            if not subscribed:
                self._patterns.pop(pattern, None)

    def forget(self, mailroom: _Mailroom) -> None:
        """End all subscriptions of a layer."""
        with self._lock:
            self._forget(mailroom)

    def _forget(self, mailroom: _Mailroom) -> None:
        for group in [group for group, subscribed in self._topics.items() if mailroom in subscribed]:
            del self._topics[group][mailroom]
            if not self._topics[group]:
                del self._topics[group]
        for pattern in [pattern for pattern, (_, subscribed) in self._patterns.items() if mailroom in subscribed]:
            del self._patterns[pattern][1][mailroom]
            if not self._patterns[pattern][1]:
                del self._patterns[pattern]

    def publish(self, group: str, message: bytes, elsewhere: list[tuple[str, _Binding]] | None = None) -> int:
        """Hand an event to every subscribed layer and a message to every bound queue. Returns the layers reached.

        With ``elsewhere``, nothing is put into queues; what they are and the terms of their bindings are added there.
        """
        here: list[Callable[[Event[bytes]], None]] = []
        with self._lock:
            subscribed = self._topics.get(group, ())
            event = Event(group, message)
            thread = threading.get_ident()
            deaf = []
            for mailroom in subscribed:
                shortcut = mailroom.shortcut() if mailroom.thread == thread else None
                if shortcut is not None:
                    here.append(shortcut)
                elif not mailroom.deliver(event):
                    deaf.append(mailroom)
            reached = len(subscribed) - len(deaf)
            if self._patterns:
                reached = self._publish_to_patterns(group, message, deaf)
            for mailroom in deaf:
                self._forget(mailroom)
            if group in self._bindings:
                self._publish_to_queues(group, message, elsewhere)
        # Last, and without the lock: a group may have thousands of members.
        for deliver in here:
            deliver(event)
        return reached

    def _publish_to_patterns(self, group: str, message: bytes, deaf: list[_Mailroom]) -> int:
        reached = set(self._topics.get(group, ()))
        for pattern, (regex, mailrooms) in self._patterns.items():
            if regex.match(group):
                event = Event(group, message, pattern)
                reached.update(mailrooms)
                deaf.extend(mailroom for mailroom in mailrooms if not mailroom.deliver(event))
        return len(reached.difference(deaf))

    def _publish_to_queues(self, group: str, message: bytes, elsewhere: list[tuple[str, _Binding]] | None) -> None:
        now = monotonic()
        bindings = self._bindings[group]
        for queue, binding in list(bindings.items()):
            if binding.ends <= now:
                del bindings[queue]
            elif elsewhere is not None:
                elsewhere.append((queue, binding))
            elif not self._append(queue, message, binding.capacity, now, binding.expiry):
                self.queue_full(queue, binding.capacity)
        if not bindings:
            del self._bindings[group]

    def queue_full(self, queue: str, capacity: int) -> None:
        """Count and tell what a bound queue had no room for."""
        self.losses.dropped += 1
        self.losses.mailbox_full(f"Queue {queue}", capacity)

    def put(self, queue: str, message: bytes, capacity: int, expiry: float) -> None:
        """Append to a queue. Raises `QueueFull`."""
        now = monotonic()
        with self._lock:
            if now >= self._next_sweep:
                self._sweep(now)
            if not self._append(queue, message, capacity, now, expiry):
                raise QueueFull(f"Queue {queue} is full: its capacity of {capacity} messages is used up")

    def take_nowait(self, queue: str, reader: _Reader) -> bytes | None:
        """The oldest message; if there is none, ``reader`` is woken when there may be one."""
        with self._lock:
            waiting = self._queues.setdefault(queue, _Queue())
            message = waiting.pop(monotonic())
            if message is None:
                waiting.readers.append(reader)
            elif waiting.unused:
                del self._queues[queue]
            return message

    def stop_waiting(self, queue: str, reader: _Reader) -> None:
        """A reader that `take_nowait` left waiting goes; if it was woken already, another one is woken instead."""
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
            self._forget_unused_queues()
            self._forget_unused_bindings()

    def _append(self, queue: str, message: bytes, capacity: int, now: float, expiry: float) -> bool:
        waiting = self._queues.setdefault(queue, _Queue())
        waiting.forget_expired(now)
        if len(waiting.messages) >= capacity:
            return False
        waiting.messages.append((now + expiry, message))
        waiting.wake_reader()
        return True

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + _SWEEP_SECONDS
        for queue in self._queues.values():
            queue.forget_expired(now)
        self._forget_unused_queues()
        for bindings in self._bindings.values():
            for name in [name for name, binding in bindings.items() if binding.ends <= now]:
                del bindings[name]
        self._forget_unused_bindings()

    def _forget_unused_bindings(self) -> None:
        self._bindings = {group: bindings for group, bindings in self._bindings.items() if bindings}

    def _forget_unused_queues(self) -> None:
        self._queues = {name: queue for name, queue in self._queues.items() if not queue.unused}


_brokers: weakref.WeakSet[InMemoryBroker] = weakref.WeakSet()


def _reset_brokers() -> None:
    for broker in _brokers:
        broker._reset()


# A child owns neither the parent's event loops nor its messages, and a lock may have been held while forking.
os.register_at_fork(after_in_child=_reset_brokers)


class InMemoryChannelLayer(BaseChannelLayer):
    """Topics, patterns and queues without any broker to install, for one process.

    Any number of threads and event loops may publish, put and take; layers with the same ``broker`` hear each other,
    at once, also across threads. Patterns are shell globs (``*``, ``?``, ``[...]``; `fnmatch`).
    """

    def __init__(self, url: str = "memory://", *, broker: InMemoryBroker | None = None) -> None:
        if url != "memory://":
            raise ValueError(f"{url!r} is not a URL of the in-memory layer; it has only one: memory://")
        self.broker = InMemoryBroker() if broker is None else broker
        self._mailroom: _Mailroom | None = None
        self._readers: set[_Reader] = set()
        self._published = 0
        self._put_bound: Put | None = None

    @property
    def address(self) -> str:
        return "memory://"

    async def connect(self) -> None:
        self._mailroom = _Mailroom()

    async def disconnect(self) -> None:
        mailroom, self._mailroom = self._mailroom, None
        if mailroom is not None:
            self.broker.forget(mailroom)
            mailroom.close()
        for reader in self._readers:
            reader.wake()

    async def subscribe(self, groups: str) -> None:
        self.broker.subscribe(groups, self._connected())

    async def unsubscribe(self, groups: str) -> None:
        self.broker.unsubscribe(groups, self._connected())

    async def subscribe_pattern(self, pattern: str) -> None:
        self.broker.subscribe_pattern(pattern, self._connected())

    async def unsubscribe_pattern(self, pattern: str) -> None:
        self.broker.unsubscribe_pattern(pattern, self._connected())

    async def publish(self, group: str, message: bytes) -> int:
        self._connected()
        elsewhere: list[tuple[str, _Binding]] | None = None if self._put_bound is None else []
        reached = self.broker.publish(group, message, elsewhere)
        if elsewhere:
            await self._put_elsewhere(elsewhere, message)
        if self._is_turn_over():
            await checkpoint()
        return reached

    def put_bound_with(self, put: Put) -> None:
        self._put_bound = put

    async def _put_elsewhere(self, bound: list[tuple[str, _Binding]], message: bytes) -> None:
        assert self._put_bound is not None
        for queue, binding in bound:
            try:
                await self._put_bound(queue, message, capacity=binding.capacity, expiry=binding.expiry)
            except QueueFull:
                self.broker.queue_full(queue, binding.capacity)

    def deliver_at_once(self, deliver: Callable[[Event[bytes]], None]) -> None:
        self._connected().deliver_at_once = deliver

    async def next_published(self) -> Event[bytes]:
        mailroom = self._connected()
        while mailroom.open:
            if mailroom.events:
                return mailroom.events.popleft()
            await mailroom.bell.wait()
        raise _closed()

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        self._connected()
        self.broker.put(queue, message, capacity, expiry)
        if self._is_turn_over():
            await checkpoint()

    async def take(self, queue: str) -> bytes:
        mailroom = self._connected()
        reader = _Reader()
        self._readers.add(reader)
        try:
            while (message := self.broker.take_nowait(queue, reader)) is None:
                try:
                    await reader.bell.wait()
                    if self._mailroom is not mailroom:
                        raise _closed()
                except BaseException:
                    self.broker.stop_waiting(queue, reader)
                    raise
            return message
        finally:
            self._readers.discard(reader)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        self._connected()
        self.broker.bind(group, queue, capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        self._connected()
        self.broker.unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        self._connected()
        self.broker.purge(prefix)

    def publish_blocking(self, group: str, message: bytes) -> None:
        """Publish from any thread, connected or not."""
        self.broker.publish(group, message)

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """Put from any thread, connected or not."""
        self.broker.put(queue, message, capacity, expiry)

    def _connected(self) -> _Mailroom:
        if self._mailroom is None:
            raise _closed()
        return self._mailroom

    def _is_turn_over(self) -> bool:
        # A network would suspend the publisher; without it, a busy one would keep the loop from every reader.
        self._published = (self._published + 1) % _PUBLISHES_PER_TURN
        return self._published == 0


def _closed() -> ListenerClosed:
    return ListenerClosed("memory:// is not connected; use the layer through a Channel, or connect() it first")


class _LoopBell:
    """A bell that may be rung from any thread; `ring` returns False once its event loop is closed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._call_soon: CallSoon = call_soon_from_thread()
        self._on_its_way = False
        self._bell = Bell(waiter_factory())
        self.wait = self._bell.wait

    def ring(self) -> bool:
        try:
            if threading.get_ident() == self._thread:
                self._bell.ring()
            elif not self._on_its_way:
                self._on_its_way = True
                self._call_soon(self._ring_here)
        except RuntimeError:  # what asyncio and trio raise for a closed loop
            return False
        return True

    def _ring_here(self) -> None:
        self._on_its_way = False
        self._bell.ring()


class _Mailroom:
    """The events on their way from the broker to one layer's reader."""

    def __init__(self) -> None:
        self.events: deque[Event[bytes]] = deque()
        self.bell = _LoopBell()
        self.open = True
        self.thread = threading.get_ident()
        self.deliver_at_once: Callable[[Event[bytes]], None] | None = None
        self._loop_is_running = loop_is_running()

    def shortcut(self) -> Callable[[Event[bytes]], None] | None:
        """What takes an event that is published in this loop at once, unless earlier ones wait."""
        return self.deliver_at_once if not self.events and self.open and self._loop_is_running() else None

    def deliver(self, event: Event[bytes]) -> bool:
        """Add an event. Returns False for a reader whose loop is closed or that has fallen hopelessly behind."""
        self.events.append(event)
        if len(self.events) > _EVENTS_BEHIND:
            self.close()
        return self.bell.ring() and self.open

    def close(self) -> None:
        self.open = False
        self.events.clear()
        self.bell.ring()


class _Reader:
    """A task that waits in `InMemoryChannelLayer.take`."""

    def __init__(self) -> None:
        self.bell = _LoopBell()
        self.wake = self.bell.ring


@dataclass(slots=True)
class _Queue:
    messages: deque[tuple[float, bytes]] = field(default_factory=deque)
    readers: deque[_Reader] = field(default_factory=deque)

    @property
    def unused(self) -> bool:
        return not self.messages and not self.readers

    def pop(self, now: float) -> bytes | None:
        self.forget_expired(now)
        return self.messages.popleft()[1] if self.messages else None

    def forget_expired(self, now: float) -> None:
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
