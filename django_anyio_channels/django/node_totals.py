"""What the nodes of a layer have counted and measured together, also those that have closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

from ..core.capabilities import SupportsBlockingPublish
from ..core.events import PublishResult
from ..core.telemetry import Recorder
from .node import Node

Counts = dict[str, float]

_COUNTERS: dict[str, Callable[[Node], float]] = {
    "outages": lambda node: node.channel.outages,
    "outage_seconds": lambda node: node.channel.stats.outages.seconds,
    "reconnects": lambda node: node.channel.stats.outages.reconnects,
    "dropped": lambda node: node.channel.stats.dropped,
    "dropped_bytes": lambda node: node.channel.stats.dropped_bytes,
    "dropped_queue": lambda node: node.channel.stats.dropped_queue,
    "expired": lambda node: node.channel.stats.expired,
    "undecodable": lambda node: node.channel.stats.undecodable,
    "dead_letters": lambda node: node.channel.stats.dead_letters,
    "control_messages": lambda node: node.control.received,
}


class NodeTotals:
    """Sums over the nodes of all event loops. Counters never go back: a node that closes leaves what it has counted."""

    def __init__(self, new_recorder: Callable[[], Recorder | None]) -> None:
        self.new_recorder = new_recorder
        """Returns what a node records with, or None where nothing is measured."""
        self.without_node = new_recorder()
        """What callers without a node record with, under `lock`."""
        self.lock = threading.Lock()
        self._closed_counts: Counts = dict.fromkeys(_COUNTERS, 0)
        self._closed_recorder = Recorder()

    def timed(self, publisher: SupportsBlockingPublish) -> SupportsBlockingPublish:
        """Return ``publisher``, whose calls are recorded if anything is measured."""
        if self.without_node is None:
            return publisher
        return _TimedPublisher(publisher, self.without_node, self.lock)

    def close(self, node: Node) -> None:
        """Close a node, whose counts are kept."""
        with self.lock:
            _add(self._closed_counts, node)
            if node.recorder is not None:
                self._closed_recorder.add(node.recorder)
                self._closed_recorder.queues.clear()
            node.close()

    def counts(self, nodes: Iterable[Node]) -> Counts:
        """Return the counters of all nodes; ``nodes`` are those that are open."""
        with self.lock:
            counts = dict(self._closed_counts)
            for node in _open(nodes):
                _add(counts, node)
        return counts

    def recorded(self, nodes: Iterable[Node]) -> Recorder | None:
        """Return what was measured altogether, or None where nothing is; ``nodes`` are those that are open."""
        if self.without_node is None:
            return None
        total = Recorder()
        with self.lock:
            for each in (self._closed_recorder, self.without_node, *(node.recorder for node in _open(nodes))):
                if each is not None:
                    total.add(each)
        return total


class _TimedPublisher:
    def __init__(self, publisher: SupportsBlockingPublish, recorder: Recorder, lock: threading.Lock) -> None:
        self._publisher = publisher
        self._recorder = recorder
        self._lock = lock

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        with self._recorded():
            return self._publisher.publish_blocking(group, message)

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        with self._recorded():
            self._publisher.put_blocking(queue, message, capacity=capacity, expiry=expiry)

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        began = perf_counter()
        try:
            yield
        except Exception:
            with self._lock:
                self._recorder.failed += 1
            raise
        with self._lock:
            self._recorder.publish_time.observe(perf_counter() - began)


def _open(nodes: Iterable[Node]) -> list[Node]:
    """Leave out those that have closed meanwhile, whose counts are kept already."""
    return [node for node in nodes if not node.is_closed]


def _add(counts: Counts, node: Node) -> None:
    for key, read in _COUNTERS.items():
        counts[key] += read(node)
