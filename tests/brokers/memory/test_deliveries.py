"""Work in memory: which reader is woken, and what is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from django_anyio_channels import InMemoryBroker, InMemoryChannelLayer, ListenerClosed
from django_anyio_channels.brokers.memory import deliveries
from django_anyio_channels.brokers.memory.deliveries import Work
from tests.support.layers import anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio

JOBS = Work("jobs")


async def connected(broker: InMemoryBroker) -> InMemoryChannelLayer:
    layer = InMemoryChannelLayer(broker=broker, history_length=10)
    await layer.connect()
    return layer


async def test_a_reader_that_is_cancelled_when_it_was_woken_wakes_another() -> None:
    layer = await connected(InMemoryBroker())
    one, other = (asyncio.ensure_future(layer.receive_job("jobs")) for _ in range(2))
    await asyncio.sleep(0)
    await layer.put("jobs", b"1", capacity=10, expiry=60.0)
    one.cancel()
    assert (await asyncio.wait_for(other, 30)).message == b"1"
    assert one.cancelled()


async def test_readers_end_with_the_session() -> None:
    layer = await connected(InMemoryBroker())
    reading = asyncio.ensure_future(layer.receive_event("jobs", "workers"))
    await asyncio.sleep(0)
    await layer.disconnect()
    with pytest.raises(ListenerClosed, match="not connected"):
        await asyncio.wait_for(reading, 30)
    with pytest.raises(ListenerClosed, match="not connected"):
        await layer.receive_event("jobs", "workers")


async def test_a_broker_that_lost_its_memory_has_lost_work_and_forgets_what_was_pending() -> None:
    """As in a child that was forked."""
    broker = InMemoryBroker()
    layer = await connected(broker)
    await layer.subscribe("jobs")
    await layer.join("jobs", "workers")
    await layer.publish("jobs", b"pending")
    pending = await layer.receive_event("jobs", "workers")
    reading = asyncio.ensure_future(layer.receive_event("jobs", "workers"))
    await asyncio.sleep(0)
    broker._reset()
    await pending.ack()
    reading.cancel()
    await asyncio.wait([reading])
    await layer.disconnect()
    assert broker.work._sources == {}


async def test_a_consumer_group_outlives_a_history_that_was_forgotten() -> None:
    broker = InMemoryBroker()
    layer = await connected(broker)
    await layer.join("jobs", "workers")
    broker._histories.clear()
    await layer.publish("jobs", b"1")
    event = await layer.receive_event("jobs", "workers")
    assert (event.message, event.position) == (b"1", await layer.position("jobs"))


async def test_work_that_is_not_asked_for_is_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_KEPT_UNASKED", -100.0)
    broker = InMemoryBroker()
    layer = await connected(broker)
    for _ in range(2):
        await layer.put("jobs", b"1", capacity=10, expiry=60.0)
    event, _ = [await layer.receive_job("jobs") for _ in range(2)]
    reading = asyncio.ensure_future(layer.receive_job("jobs"))
    await asyncio.sleep(0)
    assert set(broker.work._sources) == {JOBS}
    monkeypatch.setattr(broker, "_next_sweep", 0.0)
    await layer.put("other jobs", b"1", capacity=10, expiry=60.0)
    assert set(broker.work._sources) == set()
    await event.ack()
    reading.cancel()
    await asyncio.wait([reading])
    await layer.disconnect()
    assert set(broker.work._sources) == set(), "nothing that comes later brings it back"
