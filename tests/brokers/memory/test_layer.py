"""What only the in-memory broker has; the contract suites test the rest."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from django_anyio_channels import InMemoryBroker, InMemoryChannelLayer, ListenerClosed
from django_anyio_channels.brokers.memory import broker as memory
from django_anyio_channels.core.events import BoundQueue
from django_anyio_channels.core.exceptions import InvalidOption

QUEUE: dict[str, Any] = {"capacity": 10, "expiry": 60.0}


def left_behind(broker: InMemoryBroker, subscribe: str) -> None:
    """A layer whose event loop was closed without disconnecting."""

    async def main() -> None:
        layer = InMemoryChannelLayer(broker=broker)
        await layer.connect()
        await getattr(layer, subscribe)("g")

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(30)


def test_another_url_is_refused() -> None:
    with pytest.raises(ValueError, match="one URL only: memory://"):
        InMemoryChannelLayer("memory://shop")


def test_a_broker_is_an_in_memory_broker() -> None:
    broker: Any = "memory://"
    with pytest.raises(InvalidOption, match="It must be an InMemoryBroker, or None"):
        InMemoryChannelLayer(broker=broker)


@pytest.mark.parametrize("subscribe", ["subscribe", "subscribe_pattern"])
def test_a_layer_whose_loop_was_closed_is_forgotten(subscribe: str) -> None:
    broker = InMemoryBroker()
    left_behind(broker, subscribe)

    async def main() -> list[int | None]:
        layer = InMemoryChannelLayer(broker=broker)
        await layer.connect()
        await layer.subscribe("g")
        return [(await layer.publish("g", b"")).receivers for _ in range(2)]

    assert asyncio.run(main()) == [1, 1]
    assert set(broker._topics) == {"g"}
    assert not broker._patterns


def test_a_reader_whose_loop_was_closed_takes_nothing_from_others() -> None:
    broker = InMemoryBroker()

    async def wait_in_vain() -> None:
        layer = InMemoryChannelLayer(broker=broker)
        await layer.connect()
        reading = asyncio.ensure_future(layer.take("q"))
        await asyncio.sleep(0)
        abandoned.append(reading)

    abandoned: list[asyncio.Future[bytes]] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # asyncio reports the task that is left
    loop.run_until_complete(wait_in_vain())
    loop.close()

    async def main() -> bytes:
        layer = InMemoryChannelLayer(broker=broker)
        await layer.connect()
        reading = asyncio.ensure_future(layer.take("q"))
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: layer.put_blocking("q", b"job", **QUEUE))
        thread.start()
        thread.join(30)
        return await asyncio.wait_for(reading, 30)

    assert asyncio.run(main()) == b"job"


def test_a_reader_that_falls_too_far_behind_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MAX_UNREAD_EVENTS", 3)

    async def main() -> None:
        layer = InMemoryChannelLayer()
        await layer.connect()
        await layer.subscribe("g")
        assert [(await layer.publish("g", b"")).receivers for _ in range(5)] == [1, 1, 1, 0, 0]
        with pytest.raises(ListenerClosed):
            await layer.next_published()

    asyncio.run(main())


def test_expired_messages_and_bindings_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SWEEP_SECONDS", 0.0)
    broker = InMemoryBroker()
    broker.bind("g", "bound", 10, 60.0, lifetime=0.0)
    broker.bind("g", "bound longer", 10, 60.0, lifetime=60.0)
    broker.bind("h", "bound", 10, 60.0, lifetime=0.0)
    broker.put("old", b"", 10, 0.0)
    broker.put("new", b"", 10, 60.0)
    broker.put("new", b"", 10, 60.0)
    assert set(broker._queues) == {"new"}
    assert {group: set(bindings) for group, bindings in broker._bindings.items()} == {"g": {"bound longer"}}


def test_bindings_that_have_ended_are_forgotten_when_their_group_is_published_to() -> None:
    broker = InMemoryBroker()
    broker.bind("g", "bound", 10, 60.0, lifetime=0.0)
    broker.bind("h", "bound", 10, 60.0, lifetime=0.0)
    broker.bind("h", "bound longer", 7, 6.0, lifetime=60.0)
    assert broker.publish("g", b"").bound_queues == []
    assert broker.publish("h", b"").bound_queues == [BoundQueue("bound longer", 7, 6.0)]
    assert {group: set(bindings) for group, bindings in broker._bindings.items()} == {"h": {"bound longer"}}


def test_a_purge_of_a_queue_that_is_waited_for_leaves_the_reader_waiting() -> None:
    async def main() -> bytes:
        layer = InMemoryChannelLayer()
        await layer.connect()
        reading = asyncio.ensure_future(layer.take("q"))
        await asyncio.sleep(0)
        await layer.purge("")
        await layer.put("q", b"after", **QUEUE)
        return await asyncio.wait_for(reading, 30)

    assert asyncio.run(main()) == b"after"


def test_a_reader_that_is_cancelled_when_another_has_taken_the_message_leaves_nothing() -> None:
    async def main() -> None:
        layer = InMemoryChannelLayer()
        await layer.connect()
        reading = [asyncio.ensure_future(layer.take("q")) for _ in range(2)]
        await asyncio.sleep(0)
        await layer.put("q", b"job", **QUEUE)
        assert await layer.take("q") == b"job"
        reading[0].cancel()
        await asyncio.wait(reading[:1])
        await layer.put("q", b"next", **QUEUE)
        assert await asyncio.wait_for(reading[1], 30) == b"next"

    asyncio.run(main())


def test_a_pattern_of_two_layers_outlives_one_of_them() -> None:
    async def main() -> None:
        broker = InMemoryBroker()
        one, other = InMemoryChannelLayer(broker=broker), InMemoryChannelLayer(broker=broker)
        for layer in (one, other):
            await layer.connect()
            await layer.subscribe_pattern("g*")
        await one.disconnect()
        assert (await other.publish("g", b"after")).receivers == 1
        assert (await other.next_published()).message == b"after"

    asyncio.run(main())


def test_events_from_another_thread_while_the_loop_is_blocked_are_all_read() -> None:
    async def main() -> list[bytes]:
        layer = InMemoryChannelLayer()
        await layer.connect()
        await layer.subscribe("g")
        reading = asyncio.ensure_future(layer.next_published())
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: [layer.publish_blocking("g", b"%d" % number) for number in range(3)])
        thread.start()
        thread.join(30)
        return [(await reading).message, *[(await layer.next_published()).message for _ in range(2)]]

    assert asyncio.run(main()) == [b"0", b"1", b"2"]


def test_a_forked_child_begins_with_an_empty_broker() -> None:
    broker = InMemoryBroker()
    broker.put("q", b"", 10, 60.0)
    broker._lock.acquire()  # as another thread may have while it forked
    memory._reset_brokers()
    broker.put("q", b"", 1, 60.0)
