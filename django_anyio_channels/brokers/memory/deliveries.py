"""Work in memory: what was delivered of a queue, or to a consumer group, is kept here until it is acknowledged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from threading import Lock
from time import monotonic
from typing import NamedTuple

import anyio

from ...core.events import DONE, Event, Gap
from ..common.acknowledgement import CountedAckHandle, Delivery, PendingDeliveries
from .history import GroupHistory
from .queues import Queue, Reader, wake_one

_KEPT_UNASKED = 24 * 3600.0
"""Seconds for which work is kept that no task asks for, longer than it is invisible."""


class Work(NamedTuple):
    """A queue, or a group as one consumer group sees it."""

    name: str
    consumer_group: str | None = None
    """None for a queue."""


class Outcome(NamedTuple):
    """What a call for work brings."""

    delivery: Delivery | None
    """None if there is nothing; then the reader is woken when there may be something."""
    seconds: float
    """After how many seconds there may be something that no one wakes a reader for."""
    lost: bool
    """Whether something was lost before it was delivered to any consumer."""


class _Pending(NamedTuple):
    due: float
    deliveries: int
    message: bytes


class _Source(ABC):
    """What is pending of one queue or consumer group, and where what is new comes from."""

    def __init__(self) -> None:
        self.ends = 0.0
        """When it is forgotten."""
        self._pending: dict[bytes, _Pending] = {}
        """What is due first comes first, since all are invisible for the same time."""
        self._released: dict[bytes, _Pending] = {}

    @property
    @abstractmethod
    def readers(self) -> deque[Reader]:
        """The readers that wait."""

    @abstractmethod
    def take_new(self, now: float) -> tuple[bytes, bytes] | None:
        """Take an id and a message that no reader has had, if there is one."""

    def take_lost(self) -> bool:
        """Return whether something was lost since the last call."""
        return False

    def deliver(self, now: float, seconds: float) -> Delivery | None:
        """Deliver what was released, or what is due again, or else what is new."""
        found = self._released
        if not found and self.seconds_until_due(now) == 0:
            found = self._pending
        if found:
            work_id = next(iter(found))
            _, deliveries, message = found.pop(work_id)
        else:
            new = self.take_new(now)
            if new is None:
                return None
            (work_id, message), deliveries = new, 0
        self._pending[work_id] = _Pending(now + seconds, deliveries + 1, message)
        return Delivery(work_id, deliveries + 1, message)

    def seconds_until_due(self, now: float) -> float | None:
        """Return when something is due that is neither new nor released; None if nothing is pending."""
        first = next(iter(self._pending.values()), None)
        return None if first is None else max(0.0, first.due - now)

    def release(self, ids: Iterable[bytes]) -> None:
        for work_id in ids:
            if work_id in self._pending:
                self._released[work_id] = self._pending.pop(work_id)
                wake_one(self.readers)

    def acknowledge(self, work_id: bytes) -> None:
        self._pending.pop(work_id, None)
        self._released.pop(work_id, None)

    def clear(self) -> None:
        self._pending.clear()
        self._released.clear()

    def stop_waiting(self, reader: Reader) -> None:
        if reader in self.readers:
            self.readers.remove(reader)
        else:
            wake_one(self.readers)  # in its place


class _QueueSource(_Source):
    """The messages of a queue."""

    def __init__(self, get_queue: Callable[[], Queue]) -> None:
        super().__init__()
        self._get_queue = get_queue
        self._taken = 0

    @property
    def readers(self) -> deque[Reader]:
        return self._get_queue().readers

    def take_new(self, now: float) -> tuple[bytes, bytes] | None:
        message = self._get_queue().pop(now)
        self._taken += 1
        return None if message is None else (b"%d" % self._taken, message)


class _ConsumerGroup(_Source):
    """The messages of a group's history after those that the consumer group has taken."""

    def __init__(self, get_history: Callable[[], GroupHistory]) -> None:
        super().__init__()
        self._readers: deque[Reader] = deque()
        self._get_history = get_history
        history = get_history()
        self._prefix, self._taken, self._lost = history.prefix, history.last, False

    @property
    def readers(self) -> deque[Reader]:
        return self._readers

    def take_new(self, now: float) -> tuple[bytes, bytes] | None:
        history = self._get_history()
        if history.prefix != self._prefix:
            self._prefix, self._taken, self._lost = history.prefix, 0, True
        if self._taken < history.first - 1:
            self._taken, self._lost = history.first - 1, True
        if self._taken == history.last:
            return None
        self._taken += 1
        return history.position_of(self._taken), history.message(self._taken)

    def take_lost(self) -> bool:
        lost, self._lost = self._lost, False
        return lost


class PendingWork:
    """All work of a broker, whose lock it takes."""

    def __init__(
        self, lock: Lock, get_queue: Callable[[str], Queue], get_history: Callable[[str], GroupHistory]
    ) -> None:
        self._lock = lock
        self._get_queue = get_queue
        self._get_history = get_history
        self._sources: dict[Work, _Source] = {}

    def join(self, work: Work, seconds: float) -> None:
        """Have a consumer group begin with what is published from now on, if it has not begun yet."""
        with self._lock:
            self._source(work, monotonic() + seconds)

    def deliver(self, work: Work, reader: Reader, seconds: float) -> Outcome:
        """Deliver to a reader; others get it again after so many seconds."""
        with self._lock:
            now = monotonic()
            source = self._source(work, now + seconds)
            delivery = source.deliver(now, seconds)
            if delivery is None:
                source.readers.append(reader)
            until_due = source.seconds_until_due(now)
            return Outcome(delivery, seconds if until_due is None else until_due, source.take_lost())

    def stop_waiting(self, work: Work, reader: Reader) -> None:
        """Remove a reader that `deliver` left waiting; if it was woken already, another one is woken instead."""
        with self._lock:
            if work in self._sources:
                self._sources[work].stop_waiting(reader)

    def acknowledge(self, work: Work, work_id: bytes) -> None:
        """End a delivery; one that has ended is no error."""
        with self._lock:
            if work in self._sources:
                self._sources[work].acknowledge(work_id)

    def release(self, work: Work, ids: Iterable[bytes]) -> None:
        """Make deliveries due at once."""
        with self._lock:
            if work in self._sources:
                self._sources[work].release(ids)

    def notify_published(self, group: str) -> None:
        """Wake a reader of each consumer group of a group."""
        with self._lock:
            for work, source in self._sources.items():
                if work.name == group and work.consumer_group is not None:
                    wake_one(source.readers)

    def purge(self, prefix: str) -> None:
        """Forget what is pending of names that begin with ``prefix``."""
        with self._lock:
            for work, source in self._sources.items():
                if work.name.startswith(prefix):
                    source.clear()

    def sweep(self) -> None:
        """Forget what no reader has asked for. The lock is held."""
        now = monotonic()
        self._sources = {work: source for work, source in self._sources.items() if source.ends > now}

    def _source(self, work: Work, visible_again: float) -> _Source:
        source = self._sources.get(work)
        if source is None:
            self.sweep()
            if work.consumer_group is None:
                source = _QueueSource(partial(self._get_queue, work.name))
            else:
                source = _ConsumerGroup(partial(self._get_history, work.name))
            self._sources[work] = source
        source.ends = visible_again + _KEPT_UNASKED
        return source


class WorkReaders:
    """The tasks of one layer that wait for work, and what they have not acknowledged."""

    def __init__(self, redeliver_after: float) -> None:
        self._redeliver_after = redeliver_after
        self._pending = PendingDeliveries[Work](redeliver_after)

    async def receive(
        self, store: PendingWork, work: Work, reader: Reader, emit: Callable[[Event[bytes]], None]
    ) -> Event[bytes]:
        """Wait for a delivery; `ListenerClosed` once the session of ``reader`` has ended. ``emit`` takes a `Gap`."""
        while True:
            delivery, seconds, lost = store.deliver(work, reader, self._redeliver_after)
            if lost:
                emit(Gap(work.name, b""))
            if delivery is not None:
                return self._event(store, work, delivery)
            woken = False
            try:
                with anyio.move_on_after(seconds):
                    await reader.wait()
                    woken = True
            finally:
                if not woken:
                    store.stop_waiting(work, reader)

    def _event(self, store: PendingWork, work: Work, delivery: Delivery) -> Event[bytes]:
        self._pending.add(work, delivery.work_id, monotonic())
        ack_handle = CountedAckHandle(partial(self._acknowledge, store, work, delivery.work_id))
        position = None if work.consumer_group is None else delivery.work_id.decode()
        return Event(work.name, delivery.message, None, ack_handle, position, delivery.deliveries)

    def _acknowledge(self, store: PendingWork, work: Work, work_id: bytes) -> Awaitable[None]:
        self._pending.discard(work, work_id)
        store.acknowledge(work, work_id)
        return DONE

    def release_all(self, store: PendingWork) -> None:
        """Make what is pending here due for other layers at once."""
        for work, ids in self._pending.pop_all().items():
            store.release(work, ids)
