"""SubscriptionRegistry on Redis: what the contract suite of all layers does not ask."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import anyio
import msgpack
import pytest

from django_anyio_channels import Channel
from django_anyio_channels.brokers.redis.layer import RedisPubSubChannelLayer
from django_anyio_channels.core.events import Event
from django_anyio_channels.core.exceptions import (
    ChannelLayerError,
    ListenerClosed,
    PayloadTooLarge,
    SubscriptionRefused,
)
from django_anyio_channels.core.layer import subscribing
from tests.support.brokers import redis as brokers

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio


class Composite(RedisPubSubChannelLayer):
    """The documented way to listen to several groups with one subscriber."""

    async def subscribe(self, groups: str) -> None:
        await self._pubsub.subscribe(*groups.split(";"))

    async def unsubscribe(self, groups: str) -> None:
        await self._pubsub.unsubscribe(*groups.split(";"))


class Globs(RedisPubSubChannelLayer):
    """The same with patterns."""

    async def subscribe(self, groups: str) -> None:
        await self._pubsub.psubscribe(*groups.split(";"))

    async def unsubscribe(self, groups: str) -> None:
        await self._pubsub.punsubscribe(*groups.split(";"))


async def as_hub(layer: RedisPubSubChannelLayer, verb: str, name: str) -> None:
    """Call a verb the way the hub does."""
    token = subscribing.set(name)
    try:
        await getattr(layer, verb)(name)
    finally:
        subscribing.reset(token)


async def events(layer: RedisPubSubChannelLayer, count: int) -> list[Event[bytes]]:
    with anyio.fail_after(30):
        return [await layer.next_published() for _ in range(count)]


def connections_to(server: brokers.Redis) -> Iterator[int]:
    """Second descriptors of this process's connections to a server, as a forked child has them."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            if connection.getpeername() == ("127.0.0.1", server.server.port):
                yield os.dup(int(name))


async def test_who_left_is_gone_though_a_forked_child_has_its_connections(
    server: brokers.Redis, connect: Connect
) -> None:
    """Nobody may wait for its answers, as `AnyioChannelLayer.flush` does."""
    other, layer = await connect(server.url), await connect(server.url)
    await layer.subscribe("room")
    inherited = list(connections_to(server))
    try:
        assert len(inherited) == 4
        await layer.disconnect()
        with anyio.fail_after(30):
            while (await other.publish("room", b"")).receivers:
                await anyio.sleep(0.01)
    finally:
        for descriptor in inherited:
            os.close(descriptor)


async def test_publish_tells_how_many_nodes_were_reached(server: brokers.Redis, connect: Connect) -> None:
    one, other = await connect(server.url), await connect(server.url)
    assert (await one.publish("room", b"0")).receivers == 0
    await one.subscribe("room")
    assert (await one.publish("room", b"1")).receivers == 1
    await other.subscribe("room")
    assert (await one.publish("room", b"2")).receivers == 2


async def test_one_subscriber_of_a_composite_name_gets_the_events_of_all_its_parts(
    server: brokers.Redis,
) -> None:
    layer = Composite(server.url)
    await layer.connect()
    await as_hub(layer, "subscribe", "a;b")
    await as_hub(layer, "subscribe", "a")
    await layer.publish("a", b"1")
    await layer.publish("b", b"2")
    assert await events(layer, 3) == [Event("a", b"1", "a;b"), Event("a", b"1"), Event("b", b"2", "a;b")]

    await as_hub(layer, "unsubscribe", "a;b")
    assert (await layer.publish("b", b"3")).receivers == 0
    assert (await layer.publish("a", b"4")).receivers == 1
    assert await events(layer, 1) == [Event("a", b"4")]
    await layer.disconnect()


async def test_a_composite_of_patterns(server: brokers.Redis) -> None:
    layer = Globs(server.url)
    await layer.connect()
    await as_hub(layer, "subscribe", "a.*;b.?")
    await layer.publish("a.long", b"1")
    await layer.publish("b.1", b"2")
    assert await events(layer, 2) == [Event("a.long", b"1", "a.*;b.?"), Event("b.1", b"2", "a.*;b.?")]
    await as_hub(layer, "unsubscribe", "a.*;b.?")
    assert (await layer.publish("b.1", b"3")).receivers == 0
    await layer.disconnect()


async def test_patterns(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await layer.subscribe_pattern("room.*")
    await layer.subscribe("room.1")
    await layer.publish("room.1", b"x")
    assert sorted(await events(layer, 2), key=str) == [Event("room.1", b"x", "room.*"), Event("room.1", b"x")]
    await layer.unsubscribe_pattern("room.*")
    await layer.unsubscribe("never subscribed to")
    assert (await layer.publish("room.2", b"y")).receivers == 0


async def test_two_connections_however_many_groups_and_publishers(server: brokers.Redis, connect: Connect) -> None:
    before = len(server.ask("CLIENT LIST"))
    layer = await connect(server.url)
    async with anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(layer.subscribe, f"group {number}")
            tasks.start_soon(layer.publish, f"group {number}", b"x")
    assert len(server.ask("CLIENT LIST")) - before <= 2 + 1  # one is that which asks


async def test_an_idle_link_outlives_redis_py_s_own_timeouts(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url, socket_timeout=0.1, health_check_interval=0, probe_interval=0.4)
    await layer.subscribe("room")
    with anyio.move_on_after(1):
        await layer.next_published()
    await layer.publish("room", b"still here")
    assert (await events(layer, 1))[0].message == b"still here"


async def test_a_reader_that_falls_behind_stops_reading_from_the_socket_and_loses_nothing(
    server: brokers.Redis, connect: Connect
) -> None:
    """Nor is the silence that it makes itself taken for the server's."""
    layer = await connect(server.url, probe_interval=0.4)
    await layer.subscribe("room")
    count = 25_000
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            pipeline.publish("room", str(number))
        pipeline.execute()
    await anyio.sleep(0.8)
    received = [int(event.message) for event in await events(layer, count)]
    assert received == list(range(count))
    await layer.subscribe("elsewhere")


async def test_what_a_reader_had_when_its_link_broke_is_not_lost(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await layer.subscribe("room")
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(25_000):
            pipeline.publish("room", str(number))
        pipeline.execute()
    # It reads as far as it may.
    await becomes_true(lambda: len(layer.require_session().subscriptions.events.queued) > 10_000)
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    received: list[int] = []
    with anyio.fail_after(30), pytest.raises(ListenerClosed, match="the connection"):
        await layer.take("jobs")
        pytest.fail("there are no jobs")
    await anyio.sleep(0.2)  # the other connection is given up too
    with anyio.fail_after(30), pytest.raises(ListenerClosed, match="the connection"):
        while True:
            received.append(int((await layer.next_published()).message))
    assert received == list(range(len(received)))
    assert len(received) > 10_000


async def test_what_is_on_its_way_when_a_subscription_ends_is_dropped(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await layer.subscribe("room")
    await layer.subscribe_pattern("r*")
    await layer.subscribe("other")
    server.ask("PUBLISH", "room", "too late")  # our event loop stands still meanwhile
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(layer.unsubscribe_pattern, "r*")
        tasks.start_soon(layer.unsubscribe, "room")
    await layer.publish("other", b"x")
    assert [event.group for event in await events(layer, 1)] == ["other"]


async def test_a_burst_comes_in_order_and_leaves_readers_their_turn(server: brokers.Redis) -> None:
    async with Channel(RedisPubSubChannelLayer(server.url)) as channel, channel.subscribe("room") as subscriber:
        with server.client(decode_responses=False) as raw, raw.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.publish("room", msgpack.packb(number))
            pipeline.execute()
        with anyio.fail_after(30):
            assert [(await anext(subscriber)).message for _ in range(1000)] == list(range(1000))
        assert subscriber.dropped == 0, "with a mailbox for a hundred"


async def test_a_subclass_sees_every_event(server: brokers.Redis) -> None:
    seen: list[str] = []

    class Watching(RedisPubSubChannelLayer):
        async def next_published(self) -> Event[bytes]:
            event = await super().next_published()
            seen.append(event.group)
            return event

    async with Channel(Watching(server.url)) as channel, channel.subscribe("room") as subscriber:
        for number in range(5):
            await channel.publish("room", number)
            assert (await anext(subscriber)).message == number
    assert seen == ["room"] * 5


async def test_what_waits_ends_when_the_layer_is_disconnected(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    ended: list[str] = []

    async def wait_for(verb: str, *arguments: str) -> None:
        with pytest.raises(ListenerClosed, match="disconnected"):
            await getattr(layer, verb)(*arguments)
        ended.append(verb)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, "next_published")
        tasks.start_soon(wait_for, "take", "queue")
        await anyio.wait_all_tasks_blocked()
        await layer.disconnect()
    assert sorted(ended) == ["next_published", "take"]


async def test_a_refused_subscription_says_how_to_allow_it(server: brokers.Redis, connect: Connect) -> None:
    server.ask("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&open.*")
    layer = await connect(server.url, username="limited", password="secret")
    await layer.subscribe("open.1")
    with pytest.raises(
        SubscriptionRefused, match=r"'closed': NOPERM .*[a-z]\. Allow it with `ACL SETUSER user &prefix\*`"
    ):
        await layer.subscribe("closed")
    await layer.publish("open.1", b"x")
    assert (await events(layer, 1))[0].group == "open.1"


async def test_a_refused_subscription_is_refused_to_all_who_ask(server: brokers.Redis, connect: Connect) -> None:
    server.ask("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&open.*")
    layer = await connect(server.url, username="limited", password="secret")
    refused: list[str] = []

    async def subscribe() -> None:
        with pytest.raises(SubscriptionRefused) as caught:
            await layer.subscribe("closed")
        refused.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(subscribe)
        tasks.start_soon(subscribe)
    assert len(refused) == 2


async def test_a_refused_publish_says_who_refuses_and_what_to_do(server: brokers.Redis, connect: Connect) -> None:
    server.ask("ACL", "SETUSER", "reader", "on", ">secret", "+@all", "~*", "&*", "-publish")
    layer = await connect(server.url, username="reader", password="secret")
    with pytest.raises(
        ChannelLayerError, match=r"redis://127\.0\.0\.1:\d+/0 refuses: NOPERM.*`ACL SETUSER user \+publish`"
    ):
        await layer.publish("room", b"x")


async def test_what_redis_cannot_carry_is_refused_before_it_is_sent(
    server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(server.url)
    monkeypatch.setattr("django_anyio_channels.brokers.redis.layer.LARGEST_MESSAGE", 10)
    with pytest.raises(PayloadTooLarge, match="carries up to 10 bytes; this message has 11"):
        await layer.publish("room", b"x" * 11)
    with pytest.raises(PayloadTooLarge, match="carries up to 10 bytes; this message has 11"):
        await layer.put("jobs", b"x" * 11, capacity=10, expiry=60)
    await layer.publish("room", b"x" * 10)


async def test_a_link_on_which_something_unasked_is_said_is_over() -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked = await stream.receive()
            await stream.send(b"+PONG\r\n" + (b"*1\r\n$6\r\nmaster\r\n" if b"ROLE" in asked else b"+subscribed\r\n"))
            async for _ in stream:
                await stream.send(b"+PONG\r\n+and another thing\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        layer = RedisPubSubChannelLayer(f"redis://127.0.0.1:{port}", probe_interval=0.4)
        with anyio.fail_after(30), pytest.raises(ListenerClosed, match="not Redis' protocol.*another thing.*unasked"):
            await layer.connect()
            await layer.next_published()
        await layer.disconnect()
        tasks.cancel_scope.cancel()


async def test_a_link_that_breaks_while_the_other_one_is_made() -> None:
    streams: list[anyio.abc.SocketStream] = []

    async def answer(stream: anyio.abc.SocketStream) -> None:
        streams.append(stream)
        async with stream:
            await stream.receive()
            if len(streams) == 1:
                await stream.send(b"+PONG\r\n*1\r\n$6\r\nmaster\r\n")
                await anyio.sleep_forever()
            await streams[0].send_eof()
            with pytest.raises(anyio.EndOfStream):
                await streams[0].receive()
            await stream.send(b"+PONG\r\n+subscribed\r\n")
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.fail_after(30), pytest.raises(ListenerClosed, match="the server closed the connection"):
            await RedisPubSubChannelLayer(f"redis://127.0.0.1:{port}").connect()
        tasks.cancel_scope.cancel()
