"""Pending jobs, and histories whose events are counted and removed; the command's tests have dead letters."""

from __future__ import annotations

import anyio
import pytest

from django_anyio_channels import NotSupported, PositionLost
from django_anyio_channels.core.capabilities import QueueLength, SupportsHistoryInspection
from django_anyio_channels.core.inspection import QueueState
from tests.support.brokers import postgres as brokers
from tests.support.layers import TIME_LIMIT

from .conftest import Connect

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("acknowledged", [True, False], ids=["durable", "unlogged"])
async def test_pending_jobs_are_counted(database: brokers.Postgres, connect: Connect, *, acknowledged: bool) -> None:
    layer = await connect(database.url, history_length=10)
    if acknowledged:
        layer.set_acknowledged(lambda queue: queue.endswith("jobs"))
    assert await layer.inspect_queues("", 10) == []
    assert await layer.queue_length("a-jobs") == QueueLength(0, 0)

    async def states() -> dict[str, tuple[int, int]]:
        found = {each.name: each for each in await layer.inspect_queues("a", 10)}
        for name, each in found.items():
            assert await layer.queue_length(name) == QueueLength(each.length, each.pending)
        return {name: (each.length, each.pending) for name, each in found.items()}

    for message in (b"1", b"2"):
        await layer.put("a-jobs", message, capacity=10, expiry=60.0)
    await layer.put("b-jobs", b"1", capacity=10, expiry=60.0)
    await layer.put("a-queue", b"1", capacity=10, expiry=60.0)
    assert await states() == {"a-jobs": (2, 0), "a-queue": (1, 0)}
    with anyio.fail_after(TIME_LIMIT):
        event = await layer.receive_job("a-jobs")
        assert await states() == {"a-jobs": (1, 1), "a-queue": (1, 0)}
        [state, _] = await layer.inspect_queues("a", 10)
        assert state.expires_in is not None
        assert 0 < state.expires_in <= 60
        await layer.receive_job("a-jobs")
        assert await layer.inspect_queues("a", 1) == [QueueState("a-jobs", 0, None, 2)]
        assert event.ack_handle is not None
        await event.ack()
        assert await states() == {"a-jobs": (0, 1), "a-queue": (1, 0)}
        await layer.join("a-group", "workers")
        await layer.publish("a-group", b"1")
        await layer.receive_event("a-group", "workers")
    assert set(await states()) == {"a-jobs", "a-queue"}, "an event of a consumer group is in no queue"


async def test_a_queue_that_was_not_acknowledged_before(database: brokers.Postgres, connect: Connect) -> None:
    """What waits is in both tables."""
    layer = await connect(database.url)
    await layer.put("jobs", b"1", capacity=10, expiry=600.0)
    layer.set_acknowledged(lambda queue: True)
    await layer.put("jobs", b"2", capacity=10, expiry=60.0)
    [state] = await layer.inspect_queues("", 10)
    assert (state.name, state.length, state.pending) == ("jobs", 2, 0)
    assert state.expires_in is not None
    assert 0 < state.expires_in <= 60
    assert await layer.queue_length("jobs") == QueueLength(2, 0)


async def test_events_are_counted_and_removed(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url, history_length=10, history_bytes=10_000)
    assert isinstance(layer, SupportsHistoryInspection)
    assert await layer.count_history("") == {}
    assert await layer.remove_from_history("asgi:g:a", ["00000000-0-0"]) == 0
    groups = {f"asgi:g:{name}": count for name, count in (("a", 3), ("b.dead", 1), ("c", 2))}
    positions = {
        group: [(await layer.publish(group, bytes(1000))).position for _ in range(count)]
        for group, count in groups.items()
    }
    await layer.publish("other:g:a", b"x")
    assert await layer.count_history("asgi:g:") == groups
    first, second, third = map(str, positions["asgi:g:a"])
    assert await layer.remove_from_history("asgi:g:a", [second, second]) == 1
    assert await layer.remove_from_history("asgi:g:a", ["forged", "", f"00000000-{first[9:]}", second]) == 0
    left = await layer.history("asgi:g:a", since=None, limit=None)
    assert [event.position for event in left] == [first, third]
    with pytest.raises(PositionLost):
        await layer.history("asgi:g:a", since=first, limit=None)
    assert (await layer.count_history("asgi:g:"))["asgi:g:a"] == 2
    assert database.ask("SELECT kept FROM django_anyio_channels_position WHERE topic = %s", b"asgi:g:a") == [(2,)]
    assert await layer.remove_from_history("asgi:g:a", [first, third]) == 2
    assert "asgi:g:a" not in await layer.count_history("asgi:g:")
    with pytest.raises(PositionLost):
        await layer.history("asgi:g:a", since=second, limit=None)
    assert database.ask("SELECT kept, bytes FROM django_anyio_channels_position WHERE topic = %s", b"asgi:g:a") == [
        (0, 0)
    ]


async def test_without_a_history_there_is_nothing_to_count(database: brokers.Postgres, connect: Connect) -> None:
    layer = await connect(database.url)
    for call in (layer.count_history(""), layer.remove_from_history("g", ["00000000-0-0"])):
        with pytest.raises(NotSupported, match="keeps no history unless history_length"):
            await call
