"""What the embedded broker remembers of idempotency keys, and for how long."""

from __future__ import annotations

import threading

import pytest

from django_anyio_channels import InMemoryBroker, PublishResult, QueueFull
from django_anyio_channels.brokers.memory import idempotency
from django_anyio_channels.brokers.memory.history import HistoryLimits


def test_keys_are_forgotten_when_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(idempotency, "monotonic", lambda: now)
    keys = idempotency.IdempotencyKeys()
    first, second, third = (PublishResult(number) for number in range(3))
    keys.add(("g", "late"), first, 100.0)
    keys.add(("g", "k"), second, 10.0)
    keys.add(("g", "l"), third, 20.0)
    assert [keys.get(("g", key)) for key in ("k", "l", "late", "other")] == [second, third, first, None]
    now = 10.0
    assert [keys.get(("g", key)) for key in ("k", "l", "late")] == [None, third, first]
    keys.add(("g", "late"), second, 1.0)
    now = 20.0
    assert [keys.get(("g", key)) for key in ("k", "l", "late")] == [None] * 3
    assert keys._results == {}


def test_a_key_has_one_message_whichever_thread_is_first() -> None:
    broker = InMemoryBroker()
    broker.bind("g", "jobs", 100, 60.0, 60.0)
    results: list[PublishResult] = []
    barrier = threading.Barrier(8)

    def publish() -> None:
        barrier.wait()
        results.append(broker.publish_once("g", b"x", "k", 60.0))
        broker.put_once("jobs", b"x", 100, 60.0, "k", 60.0)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(result.bound_queues) for result in results] == [1] * 8
    with pytest.raises(QueueFull):
        broker.put_once("jobs", b"x", 1, 60.0, "other", 60.0)


def test_a_repeated_message_has_the_position_of_the_first() -> None:
    broker = InMemoryBroker()
    keep = broker.keep_history(HistoryLimits(10, 60.0, 1000))
    first = broker.publish_once("g", b"x", "k", 60.0, keep)
    assert broker.publish_once("g", b"x", "k", 60.0, keep).position == first.position is not None


def test_a_purge_forgets_the_keys_of_its_names() -> None:
    broker = InMemoryBroker()
    broker.put_once("a:jobs", b"x", 1, 60.0, "k", 60.0)
    broker.put_once("b:jobs", b"x", 1, 60.0, "k", 60.0)
    broker.purge("a:")
    broker.put_once("a:jobs", b"x", 1, 60.0, "k", 60.0)
    with pytest.raises(QueueFull):
        broker.put_once("a:jobs", b"x", 1, 60.0, "l", 60.0)
