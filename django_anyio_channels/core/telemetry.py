"""Times of published and received messages, measured once for each and never for each delivery."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic, perf_counter, time
from typing import Any, ParamSpec, TypeVar

from .capabilities import QueueLength
from .events import Event
from .stats import DeliveryStats

P = ParamSpec("P")
T = TypeVar("T")

Observe = Callable[[float], None]

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of a histogram's buckets, in seconds; one more bucket has no bound."""


class Histogram:
    """How many times fell into each of `BUCKETS`, and their sum. Observe in one thread, or under a lock."""

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BUCKETS) + 1)
        self.sum: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many times were observed."""
        return sum(self.counts)

    def add(self, other: Histogram) -> None:
        """Add what another one has counted."""
        self.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class _ForwardingHistogram(Histogram):
    def __init__(self, forward: Observe) -> None:
        super().__init__()
        self._forward = forward

    def observe(self, seconds: float) -> None:
        super().observe(seconds)
        self._forward(seconds)


class Recorder:
    """What one node, or the callers without one, measure."""

    def __init__(self, on_publish: Observe | None = None, on_lag: Observe | None = None) -> None:
        """``on_publish`` and ``on_lag`` are given each time as well."""
        self.publish_time: Histogram = Histogram() if on_publish is None else _ForwardingHistogram(on_publish)
        """From the call until the broker has accepted the message."""
        self.lag: Histogram = Histogram() if on_lag is None else _ForwardingHistogram(on_lag)
        """Until the message is in the mailboxes; see `EventRecorder`."""
        self.failed: int = 0
        """Messages that were not published, or perhaps not."""
        self.delivered: int = 0
        """How many mailboxes got the events."""
        self.queues: dict[str, QueueLength] = {}
        """The queues that are read here, as the broker counted their messages last."""

    def timed(self, call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return ``call``, which publishes one message, with its time and its failures recorded."""
        observe = self.publish_time.observe

        async def timed_call(*args: P.args, **kwargs: P.kwargs) -> T:
            began = perf_counter()
            try:
                result = await call(*args, **kwargs)
            except Exception:
                self.failed += 1
                raise
            observe(perf_counter() - began)
            return result

        return timed_call

    def add(self, other: Recorder) -> None:
        """Add what another one has measured."""
        self.publish_time.add(other.publish_time)
        self.lag.add(other.lag)
        self.failed += other.failed
        self.delivered += other.delivered
        self.queues |= other.queues


class EventRecorder:
    """An event handler that records how long events took into the mailboxes, and how many got them.

    The time begins when the message was sent or when the broker got it, where one of them is known; that is by the
    clock of another host. Else it begins when the event arrived in this process: a message carries no time then.
    """

    def __init__(
        self,
        deliver: Callable[[Event[bytes]], None],
        count_sinks: Callable[[Event[bytes]], int],
        sent_at: Callable[[Event[bytes]], float | None],
        stats: DeliveryStats,
        recorder: Recorder,
    ) -> None:
        """``sent_at`` is asked, after ``deliver``, for seconds since the epoch, or None where that is unknown."""
        self.arrived: float = 0.0
        """When the next event arrived (`time.monotonic`); 0 for one that was not queued. `ArrivalQueue` sets it."""
        self._deliver = deliver
        self._count_sinks = count_sinks
        self._sent_at = sent_at
        self._stats = stats
        self._recorder = recorder

    def __call__(self, event: Event[bytes]) -> None:
        arrived, self.arrived = self.arrived or monotonic(), 0.0
        stats = self._stats
        undecodable, without_mailbox = stats.undecodable, stats.dropped + stats.unbuffered
        self._deliver(event)
        if not event.message or stats.undecodable != undecodable:  # a probe or a `Gap`, or refused
            return
        delivered = self._count_sinks(event) - (stats.dropped + stats.unbuffered - without_mailbox)
        if delivered > 0:
            recorder = self._recorder
            recorder.delivered += delivered
            sent = self._sent_at(event)
            # The other clock may be ahead.
            recorder.lag.observe(monotonic() - arrived if sent is None else max(0.0, time() - sent))


class ArrivalQueue(deque[Event[bytes]]):
    """Events that wait for an `EventRecorder`, which it gives the time of arrival of each that is taken out."""

    def __init__(self, events: Iterable[Event[bytes]], recorder: EventRecorder) -> None:
        super().__init__(events)
        self._times = deque([monotonic()] * len(self))
        self._recorder = recorder

    def append(self, event: Event[bytes]) -> None:
        self._times.append(monotonic())
        super().append(event)

    def popleft(self) -> Event[bytes]:
        self._recorder.arrived = self._times.popleft()
        return super().popleft()

    def clear(self) -> None:
        super().clear()
        self._times.clear()


def queue_for(handler: object, events: deque[Event[bytes]]) -> deque[Event[bytes]]:
    """Return the queue of the events that wait for a handler: an `ArrivalQueue`, or ``events`` unless it measures."""
    return ArrivalQueue(events, handler) if isinstance(handler, EventRecorder) else events
