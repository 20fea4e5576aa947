"""What is recorded of publishing and of events, and when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio
import pytest

from django_anyio_channels.core import telemetry
from django_anyio_channels.core.capabilities import QueueLength
from django_anyio_channels.core.events import Event, Gap
from django_anyio_channels.core.stats import DeliveryStats
from django_anyio_channels.core.telemetry import (
    BUCKETS,
    ArrivalQueue,
    EventRecorder,
    Histogram,
    Recorder,
    queue_for,
)


class Clock:
    """All clocks of the module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for name in ("monotonic", "perf_counter", "time"):
            monkeypatch.setattr(telemetry, name, lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_histogram_counts_up_to_and_with_the_bound() -> None:
    histogram = Histogram()
    for seconds in (0.0, BUCKETS[0], 0.0101, BUCKETS[-1], BUCKETS[-1] + 1):
        histogram.observe(seconds)
    assert histogram.counts[0] == 2
    assert histogram.counts[BUCKETS.index(0.025)] == 1
    assert histogram.counts[-2:] == [1, 1]
    assert histogram.count == 5
    assert histogram.sum == pytest.approx(2 * BUCKETS[-1] + 1 + 0.0101 + BUCKETS[0])


def test_recorders_are_added() -> None:
    total, part = Recorder(), Recorder()
    for recorder in (total, part):
        recorder.publish_time.observe(1.0)
        recorder.lag.observe(2.0)
        recorder.failed += 3
        recorder.delivered += 4
    part.queues["jobs"] = QueueLength(5, 6)
    total.add(part)
    assert (total.publish_time.count, total.publish_time.sum) == (2, 2.0)
    assert (total.lag.count, total.lag.sum, total.failed, total.delivered) == (2, 4.0, 6, 8)
    assert total.queues == {"jobs": QueueLength(5, 6)}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_call_is_timed_and_its_failures_are_counted(clock: Clock) -> None:
    forwarded: list[float] = []
    recorder = Recorder(on_publish=forwarded.append)

    async def publish(group: str, *, error: type[BaseException] | None = None) -> str:
        clock.now += 0.5
        if error is not None:
            raise error
        return group

    timed = recorder.timed(publish)
    assert await timed("g") == "g"
    assert (recorder.publish_time.count, recorder.publish_time.sum, forwarded) == (1, 0.5, [0.5])
    with pytest.raises(ZeroDivisionError):
        await timed("g", error=ZeroDivisionError)
    assert recorder.failed == 1
    # To be cancelled is no failure of the broker's.
    with pytest.raises(anyio.get_cancelled_exc_class()):
        await timed("g", error=anyio.get_cancelled_exc_class())
    assert (recorder.failed, recorder.publish_time.count) == (1, 1)


def make(
    clock: Clock,
    *,
    sinks: int = 3,
    sent: float | None = None,
    stats: DeliveryStats | None = None,
    on_deliver: Callable[[Event[bytes]], object] = lambda event: None,
) -> tuple[EventRecorder, Recorder, list[float]]:
    lags: list[float] = []
    recorder = Recorder(on_lag=lags.append)

    def deliver(event: Event[bytes]) -> None:
        clock.now += 0.25
        on_deliver(event)

    handler = EventRecorder(deliver, lambda event: sinks, lambda event: sent, stats or DeliveryStats(), recorder)
    return handler, recorder, lags


def test_an_event_is_recorded_once_however_many_sinks_get_it(clock: Clock) -> None:
    handler, recorder, lags = make(clock)
    handler(Event("g", b"1"))
    assert (recorder.delivered, lags) == (3, [0.25])


def test_the_lag_begins_with_the_sending_where_that_is_known(clock: Clock) -> None:
    handler, _, lags = make(clock, sent=clock.now - 2.0)
    handler(Event("g", b"1"))
    assert lags == [2.25]
    handler, _, lags = make(clock, sent=clock.now + 60.0)
    handler(Event("g", b"1"))
    assert lags == [0.0], "the other clock is ahead"


def test_what_reaches_no_mailbox_is_not_recorded(clock: Clock) -> None:
    handler, recorder, lags = make(clock)
    handler(Event("g", b""))
    handler(Gap("g", b""))
    nowhere, other, more_lags = make(clock, sinks=0)
    nowhere(Event("g", b"1"))
    stats = DeliveryStats()
    refusing, third, last_lags = make(
        clock, stats=stats, on_deliver=lambda event: stats.count_undecodable("g", ValueError())
    )
    refusing(Event("g", b"forged"))
    assert [each.delivered for each in (recorder, other, third)] == [0, 0, 0]
    assert lags == more_lags == last_lags == []


def test_what_a_mailbox_dropped_or_a_node_took_for_itself_is_not_delivered(clock: Clock) -> None:
    stats = DeliveryStats()

    def drop(event: Event[bytes]) -> None:
        stats.dropped += 1
        stats.unbuffered += 1

    handler, recorder, lags = make(clock, stats=stats, on_deliver=drop)
    handler(Event("g", b"1"))
    assert (recorder.delivered, lags) == (1, [0.25])
    handler, recorder, lags = make(clock, sinks=2, stats=stats, on_deliver=drop)
    handler(Event("g", b"1"))
    assert (recorder.delivered, lags) == (0, [])


def test_the_lag_of_a_queued_event_begins_with_its_arrival(clock: Clock) -> None:
    handler, _, lags = make(clock)
    early = Event("g", b"early")
    queue = queue_for(handler, deque([early]))
    assert isinstance(queue, ArrivalQueue)
    clock.now += 1.0
    queue.append(Event("g", b"late"))
    clock.now += 1.0
    assert queue[0] is early
    while queue:
        handler(queue.popleft())
    handler(Event("g", b"at once"))
    assert lags == [2.25, 1.5, 0.25]
    queue.append(early)
    queue.clear()
    queue.append(early)
    clock.now += 0.5
    handler(queue.popleft())
    assert lags[-1] == 0.75


def test_a_queue_for_another_handler_stays_what_it_is() -> None:
    queue = deque([Event("g", b"1")])
    assert queue_for(print, queue) is queue
