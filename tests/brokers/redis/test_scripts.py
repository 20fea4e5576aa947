"""Every Lua script declares every key that it touches, as Redis asks for and Dragonfly insists on."""

from __future__ import annotations

import asyncio
import gc
from hashlib import sha1
from typing import Any

import anyio
import hiredis
import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.brokers.redis.layer import RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis.readers import INFLIGHT_TTL_MS, queue_keys
from django_anyio_channels.brokers.redis.scripts import EXPIRY_PREFIX, TAKE, Script
from tests.support.brokers import redis as brokers

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio

SHIM = """
local redis = (function(redis, KEYS)
  local declared, result = {}, {}
  for _, key in ipairs(KEYS) do declared[key] = true end
  local without_keys = {TIME = true, PUBLISH = true, SPUBLISH = true, PUBSUB = true}
  local function check(verb, ...)
    if without_keys[verb] then return end
    local keys = redis.call('COMMAND', 'GETKEYS', verb, ...)
    for _, key in ipairs(keys) do
      if not declared[key] then error('undeclared key ' .. key) end
    end
  end
  for name, value in pairs(redis) do result[name] = value end
  function result.call(...) check(...) return redis.call(...) end
  function result.pcall(...) check(...) return redis.pcall(...) end
  return result
end)(redis, KEYS)
"""


@pytest.fixture
def shimmed(monkeypatch: pytest.MonkeyPatch) -> list[Script]:
    """Every script refuses keys that it does not declare."""
    scripts = [each for each in gc.get_objects() if type(each) is Script]  # dead proxies have no class
    for script in scripts:
        text = SHIM + script.text
        monkeypatch.setattr(script, "text", text)
        monkeypatch.setattr(script, "_sha", sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts


async def test_the_shim_refuses_an_undeclared_key(server: brokers.Redis, connect: Connect, shimmed: object) -> None:
    session = (await connect(server.url)).require_session()
    for verb in ("call", "pcall"):
        script = Script("now")
        script.text = SHIM + f"return redis.{verb}('GET', KEYS[1] .. ARGV[1])"
        assert await session.executor(b"a").execute(script.eval([b"a"], "")) is None
        reply = await session.executor(b"a").execute(script.eval([b"a"], "b"))
        assert isinstance(reply, hiredis.ReplyError)
        assert "undeclared key ab" in str(reply)


async def test_queues_and_bindings_touch_no_undeclared_key(
    server: brokers.Redis, connect: Connect, shimmed: list[Script]
) -> None:
    sender, reader, other = [await connect(server.url) for _ in range(3)]
    plenty: Any = {"capacity": 2, "expiry": 60.0}
    with anyio.fail_after(30):
        await sender.bind("room", "jobs", lifetime=60, **plenty)
        await sender.bind("room", "work", lifetime=60, **plenty)
        for number in range(2):
            await sender.put("jobs", b"%d" % number, **plenty)
        assert [await reader.take("jobs") for _ in range(2)] == [b"0", b"1"]
        # Handed to a node that waits, then to one that has gone, which returns it.
        for layer in (reader, other, reader):
            waiting = asyncio.ensure_future(layer.take("jobs"))
            await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
            await sender.put("jobs", b"x", **plenty)
            assert await waiting == b"x"
        leaving = asyncio.ensure_future(reader.take("jobs"))
        await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
        leaving.cancel()
        await sender.put("jobs", b"y", **plenty)
        assert await other.take("jobs") == b"y"
        with server.client() as raw:
            for key in ("jobs", "{jobs}|waiting", "{jobs}|in flight", "{room}|queues"):
                raw.set(key, "of another type")
        await sender.put("jobs", b"z", **plenty)
        assert await other.take("jobs") == b"z"
        await sender.bind("room", "jobs", lifetime=60, **plenty)
        await sender.purge("")
    run = [script for script in shimmed if server.ask("SCRIPT", "EXISTS", script._sha) == [True]]
    assert len(run) >= 4, "the scripts that were run are those with the shim"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_django_layer_touches_no_undeclared_key(server: brokers.Redis, shimmed: object, streams: bool) -> None:
    layer, other = (
        AnyioChannelLayer(
            url=brokers.with_streams(server.url) if streams else server.url, acknowledged=["work"] if streams else []
        )
        for _ in range(2)
    )
    with anyio.fail_after(30):
        name = await layer.new_channel()
        for member in (name, "jobs"):
            await other.group_add("room", member)
        await other.group_send("room", {"type": "x"})
        assert await layer.receive(name) == await layer.receive("jobs") == {"type": "x"}
        for channel in ("jobs", "work", name):
            waiting = asyncio.ensure_future(layer.receive(channel))
            await asyncio.sleep(0)
            await other.send(channel, {"type": "y"})
            message = await waiting
            assert message == {"type": "y"}
            await layer.ack(message)
        if streams:
            assert len(await layer.group_history("room")) == 1
            await layer.group_resume("room", await layer.new_channel(), last=1)
        await layer.flush()
        await layer.close()
        await other.close()


async def call(
    layer: RedisPubSubChannelLayer, node: str, number: int, lease: int, wanted: int = 1, begun: int = 0
) -> Any:
    """Run take.lua as a node that prefetches three messages, and has given ``begun`` of the last ones to readers."""
    args = node, number, wanted, INFLIGHT_TTL_MS, 0, 3, lease, number - 1, begun, "PUBLISH", "{jobs}|messages", ""
    reply = await TAKE.run(layer.require_session().executor(b"jobs"), queue_keys(b"jobs"), *args)
    return [each if isinstance(each, int) else int(each[EXPIRY_PREFIX:]) for each in reply]


@pytest.fixture
async def layer(server: brokers.Redis, connect: Connect) -> RedisPubSubChannelLayer:
    """A layer, and nine messages in a queue."""
    layer = await connect(server.url)
    for number in range(9):
        await layer.put("jobs", b"%d" % number, capacity=9, expiry=60.0)
    return layer


async def test_the_server_hands_out_the_same_again_when_its_reply_was_lost(
    server: brokers.Redis, layer: RedisPubSubChannelLayer
) -> None:
    lease = 60_000
    assert await call(layer, "a", 1, lease) == await call(layer, "a", 1, lease) == [1, 0, 1, 2, 3]
    server.ask("HDEL", "{jobs}|in flight", "a 1/1")
    assert await call(layer, "a", 1, lease) == [1, 0, 2, 3]
    assert await call(layer, "b", 1, lease) == [1, 4, 5, 6]
    # The second of a's three is with a reader, although the server was not told in time.
    assert await call(layer, "a", 2, lease, wanted=0, begun=2) == []
    assert await call(layer, "a", 3, lease) == [1, 3, 7]
    assert server.ask("LLEN", "jobs") == 1


async def test_a_server_that_stood_still_first_hears_what_readers_have_got_in_time(
    server: brokers.Redis, layer: RedisPubSubChannelLayer
) -> None:
    assert await call(layer, "a", 1, lease=0) == [1, 0, 1, 2, 3]
    assert await call(layer, "b", 1, lease=0) == [1, 4, 5, 6], "a's time is over, but nobody has seen that before"
    assert server.ask("HGET", "{jobs}|in flight", "a ahead").endswith(" late")
    with anyio.fail_after(30):
        assert sorted([await layer.take("jobs") for _ in range(7)]) == [b"1", b"2", b"3", b"5", b"6", b"7", b"8"]
