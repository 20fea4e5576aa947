"""Idempotency keys on Redis: connections that break, a server without memory, and keys of other programs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, DeliveryUnknown, ListenerClosed, RedisStreamsChannelLayer
from django_anyio_channels.brokers.redis.keys import sent_key
from django_anyio_channels.brokers.redis.scripts import PUT
from django_anyio_channels.core.exceptions import ChannelLayerError
from tests.contract.processes import n, numbers, soon
from tests.support.brokers import redis as brokers

from .conftest import Connect

pytestmark = pytest.mark.anyio


async def test_each_message_arrives_once_over_connections_that_break(server: brokers.Redis) -> None:
    """With a history, so that the receiver, whose connections break as well, misses nothing."""
    receiver, sender = (AnyioChannelLayer(url=brokers.with_streams(server.url), capacity=1000) for _ in range(2))
    channel = await soon(receiver.new_channel())
    await soon(receiver.group_add("g", channel))

    async def break_connections() -> None:
        await asyncio.to_thread(server.ask, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    await soon(sender.group_send("g", n(-1)))
    positions = []
    for number in range(30):
        key = str(number)
        sending = [
            sender.group_send("g", n(number), idempotency_key=key),
            sender.send("jobs", n(number), idempotency_key=key),
        ]
        breaking = [break_connections()] if number % 6 == 0 else []
        results: list[Any] = await soon(asyncio.gather(*sending, *breaking))
        positions.append(results[0].position)
    assert await numbers(receiver, channel, 31) == list(range(-1, 30))
    assert await numbers(receiver, "jobs", 30) == list(range(30))
    assert sender.statistics()["outages"] >= 3
    assert [event.position for event in await receiver.group_history("g", limit=30)] == positions
    for layer in (receiver, sender):
        await layer.close()


@pytest.mark.parametrize("streams", [False, True], ids=["publish/subscribe", "streams"])
async def test_without_an_answer_it_is_unknown(
    server: brokers.Redis, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = RedisStreamsChannelLayer(brokers.with_streams(server.url))
    if not streams:
        layer.disable_history("g")
    await layer.connect()

    async def lose(*_: object) -> None:
        raise ListenerClosed("lost")

    monkeypatch.setattr(layer.require_session(), "publish_once", lose)
    monkeypatch.setattr(layer._history, "publish", lose)
    monkeypatch.setattr(PUT, "run", lose)
    with pytest.raises(DeliveryUnknown):
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
    with pytest.raises(DeliveryUnknown):
        await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="k", seconds=60.0)
    await layer.disconnect()


async def test_keys_expire(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await layer.subscribe("g")
    first = await layer.publish_once("g", b"x", key="k", seconds=60.0)
    assert await layer.publish_once("g", b"y", key="k", seconds=60.0) == first
    await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="k", seconds=60.0)
    for name in (b"g", b"jobs"):
        assert 0 < server.ask("PTTL", sent_key(name, "k").decode()) <= 60_000
    await layer.purge("g")
    assert server.ask("EXISTS", sent_key(b"g", "k").decode()) == 0
    assert server.ask("EXISTS", sent_key(b"jobs", "k").decode()) == 1


async def test_what_other_programs_wrote_there_is_no_key(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    for name in ("g", "jobs"):
        server.ask("LPUSH", sent_key(name.encode(), "k").decode(), "a list")
    await layer.subscribe("g")
    await layer.publish_once("g", b"x", key="k", seconds=60.0)
    await layer.put_once("jobs", b"x", capacity=1, expiry=60.0, key="k", seconds=60.0)
    assert (await layer.next_published()).message == b"x"
    assert await layer.take("jobs") == b"x"
    server.ask("SET", sent_key(b"g", "l").decode(), "nonsense")
    assert (await layer.publish_once("g", b"y", key="l", seconds=60.0)).receivers == 0


@pytest.mark.parametrize("streams", [False, True], ids=["publish/subscribe", "streams"])
async def test_what_the_server_refuses_can_be_sent_again(own_server: brokers.Redis, streams: bool) -> None:
    layer = RedisStreamsChannelLayer(brokers.with_streams(own_server.url))
    if not streams:
        layer.disable_history("g")
    await layer.connect()
    await layer.publish("g", b"before")
    await layer.subscribe("g")
    own_server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ChannelLayerError, match="raise its maxmemory"):
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
    own_server.ask("CONFIG", "SET", "maxmemory", "0")
    await layer.publish_once("g", b"y", key="k", seconds=60.0)
    assert (await layer.next_published()).message == b"y"
    await layer.disconnect()


async def test_who_may_not_publish_leaves_no_key(server: brokers.Redis, connect: Connect) -> None:
    server.ask("ACL", "SETUSER", "guest", "on", ">password", "~*", "&mine*", "+@all")
    layer = await connect(server.url.replace("redis://", "redis://guest:password@"))
    with pytest.raises(ChannelLayerError, match="channel"):
        await layer.publish_once("g", b"x", key="k", seconds=60.0)
    assert server.ask("EXISTS", sent_key(b"g", "k").decode()) == 0
    server.ask("ACL", "DELUSER", "guest")


async def test_a_message_that_a_server_refuses_is_not_remembered(
    server: brokers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = RedisStreamsChannelLayer(server.url)
    await layer.connect()

    async def refuse(*arguments: object) -> list[Exception]:
        return [ChannelLayerError("no memory is left")]

    with monkeypatch.context() as patched:
        patched.setattr(layer._history, "publish", refuse)
        with pytest.raises(ChannelLayerError, match="no memory is left"):
            await layer.publish_once("g", b"x", key="k", seconds=60.0)
    assert (await layer.publish_once("g", b"x", key="k", seconds=60.0)).position is not None
    await layer.disconnect()
