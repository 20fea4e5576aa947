"""What the nodes of a layer have counted and measured together, also those that have closed."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

from ...core.capabilities import SupportsBlockingPublish
from ...core.events import PublishResult
from ...core.telemetry import Recorder
from .node import Node

Counts = dict[str, float]

_COUNTERS: dict[str, Callable[[Node], float]] = {
    "outages": lambda node: node.channel.outages,
    "outage_seconds": lambda node: node.channel.stats.outages.seconds,
    "reconnects": lambda node: node.channel.stats.outages.reconnects,
    "dropped": lambda node: node.channel.stats.dropped,
    "dropped_bytes": lambda node: node.channel.stats.dropped_bytes,
    "dropped_queue": lambda node: node.channel.stats.dropped_queue,
    "replaced": lambda node: node.channel.stats.replaced,
    "closed_slow": lambda node: node.channel.stats.closed,
    "expired": lambda node: node.channel.stats.expired,
    "undecodable": lambda node: node.channel.stats.undecodable,
    "dead_letters": lambda node: node.channel.stats.dead_letters,
    "resumes_new": lambda node: node.resumes.counts["new"],
    "resumes_complete": lambda node: node.resumes.counts["complete"],
    "resumes_lost": lambda node: node.resumes.counts["lost"],
    "resumes_invalid": lambda node: node.resumes.counts["invalid"],
}


class NodeTotals:
    """Sums over the nodes of all event loops. Counters never go back: a node that closes leaves what it has counted."""

    def __init__(self, new_recorder: Callable[[], Recorder | None]) -> None:
        self.new_recorder = new_recorder
        """Returns what a node records with, or None where nothing is measured."""
        self._reset()
        _all_totals.add(self)

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self.without_node = self.new_recorder()
        """What callers without a node record with, under `lock`."""
        self._closed_counts: Counts = dict.fromkeys(_COUNTERS, 0)
        self._closed_recorder = Recorder()

    def timed(self, publisher: SupportsBlockingPublish) -> SupportsBlockingPublish:
        """Return ``publisher``, whose calls are recorded if anything is measured."""
        if self.without_node is None:
            return publisher
        return _TimedPublisher(publisher, self)

    def record_publish(self, seconds: float) -> None:
        """Record that a caller without a node has published a message; see `timed`."""
        assert self.without_node is not None
        with self.lock:
            self.without_node.publish_time.observe(seconds)

    def record_failure(self) -> None:
        """Record that a caller without a node could not publish a message; see `timed`."""
        assert self.without_node is not None
        with self.lock:
            self.without_node.failed += 1

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
            recorders = self._closed_recorder, self.without_node, *(node.recorder for node in _open(nodes))
            for each in filter(None, recorders):
                total.add(each)
        return total


class _TimedPublisher:
    def __init__(self, publisher: SupportsBlockingPublish, totals: NodeTotals) -> None:
        self._publisher = publisher
        self._totals = totals

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
            self._totals.record_failure()
            raise
        self._totals.record_publish(perf_counter() - began)


def _open(nodes: Iterable[Node]) -> list[Node]:
    """Leave out those that have closed meanwhile, whose counts are kept already."""
    return [node for node in nodes if not node.is_closed]


def _add(counts: Counts, node: Node) -> None:
    for key, read in _COUNTERS.items():
        counts[key] += read(node)


_all_totals: weakref.WeakSet[NodeTotals] = weakref.WeakSet()


def _reset_in_child() -> None:
    # What the parent has counted is the parent's, and a lock may have been held while forking.
    for totals in list(_all_totals):
        totals._reset()


os.register_at_fork(after_in_child=_reset_in_child)
