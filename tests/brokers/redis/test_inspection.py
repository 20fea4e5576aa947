"""What is found of the queues on a server; the contract suite has the rest."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from tests.brokers.redis.conftest import Connect, becomes_true
from tests.support.brokers import redis as brokers
from tests.support.layers import TIME_LIMIT

pytestmark = pytest.mark.anyio


async def test_nodes_that_wait_for_an_empty_queue_are_counted(server: brokers.Redis, connect: Connect) -> None:
    layer, other = await connect(server.url), await connect(server.url)
    waiting = [asyncio.ensure_future(each.take("asgi:q:jobs")) for each in (layer, other)]
    with anyio.fail_after(TIME_LIMIT):
        while [each.readers for each in await layer.inspect_queues("asgi:q:", 10)] != [2]:
            await anyio.sleep(0.01)
    [state] = await layer.inspect_queues("asgi:q:", 10)
    assert (state.name, state.length, state.expires_in) == ("asgi:q:jobs", 0, None)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


async def test_keys_of_others_are_left_alone(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    server.ask("RPUSH", "asgi:q:foreign", "x")
    server.ask("RPUSH", "{asgi:q:foreign}|waiting", "x")
    server.ask("HSET", "asgi:q:hash", "x", "y")
    server.ask("HSET", "{asgi:q:type}|in flight", "x", "y")
    server.ask("SET", "asgi:q:type", "x")
    found = {each.name: each.length for each in await layer.inspect_queues("asgi:q:", 10)}
    # Without an expiry a message counts as expired.
    assert found == {"asgi:q:foreign": 0, "asgi:q:type": 0}
    assert server.ask("GET", "asgi:q:type") == "x"
    await becomes_true(lambda: server.ask("LLEN", "asgi:q:foreign") == 1)
