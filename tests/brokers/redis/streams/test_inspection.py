"""Pending jobs, and histories whose events are counted and removed; the command's tests have dead letters."""

from __future__ import annotations

import anyio
import pytest

from django_anyio_channels import PositionLost, RedisStreamsChannelLayer
from django_anyio_channels.core.capabilities import SupportsHistoryInspection
from tests.support.brokers import redis as brokers
from tests.support.layers import TIME_LIMIT, connecting

pytestmark = pytest.mark.anyio


async def test_pending_jobs_are_counted(server: brokers.Redis) -> None:
    async with connecting(RedisStreamsChannelLayer) as connect:
        layer = await connect(brokers.with_streams(server.url))
        for message in (b"1", b"2"):
            await layer.put("asgi:q:jobs", message, capacity=10, expiry=60.0)
        with anyio.fail_after(TIME_LIMIT):
            event = await layer.receive_job("asgi:q:jobs")
            [state] = await layer.inspect_queues("asgi:q:", 10)
            assert (state.length, state.pending) == (1, 1)
            await layer.receive_job("asgi:q:jobs")
            [state] = await layer.inspect_queues("asgi:q:", 10)
            assert (state.length, state.pending) == (0, 2)
            assert event.ack_handle is not None
            await event.ack()
            [state] = await layer.inspect_queues("asgi:q:", 10)
            assert state.pending == 1
            assert [each.name for each in await layer.inspect_queues("other:q:", 10)] == []


@pytest.mark.parametrize("kind", ["single", "cluster"])
async def test_events_are_counted_and_removed(kind: str, server: brokers.Redis, request: pytest.FixtureRequest) -> None:
    url = server.url if kind == "single" else request.getfixturevalue("cluster").url
    async with connecting(RedisStreamsChannelLayer) as connect:
        layer = await connect(brokers.with_streams(url))
        assert isinstance(layer, SupportsHistoryInspection)
        groups = {f"asgi:g:{name}": count for name, count in (("a", 3), ("b.dead", 1), ("c", 2))}
        positions = {
            group: [(await layer.publish(group, b"x")).position for _ in range(count)]
            for group, count in groups.items()
        }
        await layer.publish("other:g:a", b"x")
        await layer.put("asgi:q:jobs", b"x", capacity=10, expiry=60.0)
        assert await layer.count_history("asgi:g:") == groups
        first, second, third = map(str, positions["asgi:g:a"])
        assert await layer.remove_from_history("asgi:g:a", [second, second]) == 1
        assert await layer.remove_from_history("asgi:g:a", ["forged", ""]) == 0
        left = await layer.history("asgi:g:a", since=None, limit=None)
        assert [event.position for event in left] == [first, third]
        with pytest.raises(PositionLost):
            await layer.history("asgi:g:a", since=first, limit=None)
        assert (await layer.count_history("asgi:g:"))["asgi:g:a"] == 2
        await layer.purge("asgi:")
        await layer.purge("other:")
