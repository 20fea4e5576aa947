"""What the nodes of one scope say to each other, and what those of another scope or database do not hear."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import AnyioChannelLayer, Channel, ChannelLayerError, RedisPubSubChannelLayer
from django_anyio_channels.brokers.redis import peers as redis_peers
from django_anyio_channels.brokers.redis.keys import bindings_marker, nodes_channel
from tests.support.brokers import redis as brokers

from .clusters import calls
from .conftest import Connect, becomes_true, publish

pytestmark = pytest.mark.anyio

TERMS = {"capacity": 10, "expiry": 60.0, "lifetime": 60.0}


async def connected(url: str, scope: str) -> RedisPubSubChannelLayer:
    layer = RedisPubSubChannelLayer(url)
    layer.set_scope(scope)
    await layer.connect()
    return layer


def nodes(server: brokers.Redis, scope: bytes = b"") -> int:
    return int(server.ask("PUBSUB NUMSUB", nodes_channel(scope).decode())[0][1])


# ---- who waits for whom ----------------------------------------------------------------------------------------------


async def test_nodes_of_another_scope_are_not_waited_for_after_an_outage(own_server: brokers.Redis) -> None:
    others = [await connected(own_server.url, "other:") for _ in range(3)]
    layer = RedisPubSubChannelLayer(own_server.url)
    layer.set_scope("one:")
    async with Channel(layer) as channel:
        await channel.publish("room", 1)
        for other in others:
            await other.disconnect()
        await run_sync(own_server.server.restart)
        await becomes_true(lambda: channel.outages)
        await channel.connected()
        assert not layer.require_session().peers.waiting
        await channel.publish("room", 2)


async def test_a_node_that_has_left_is_not_waited_for(own_server: brokers.Redis) -> None:
    layer, other = [await connected(own_server.url, "one:") for _ in range(2)]
    await becomes_true(lambda: calls(own_server, "pubsub|numsub") == 3)
    await other.disconnect()
    await becomes_true(lambda: calls(own_server, "pubsub|numsub") == 4)
    await layer.publish("room", b"the count has come")
    await layer.connect()
    assert not layer.require_session().peers.waiting
    await layer.disconnect()


async def test_the_nodes_of_a_scope_are_waited_for(own_server: brokers.Redis) -> None:
    layer, other = [await connected(own_server.url, "one:") for _ in range(2)]
    await becomes_true(lambda: calls(own_server, "pubsub|numsub") >= 3)
    await layer.publish("room", b"the count has come")
    await run_sync(own_server.server.restart)
    with pytest.raises(Exception, match="connection"):
        await layer.next_published()
    await layer.connect()
    assert layer.require_session().peers.waiting
    publishing = asyncio.ensure_future(layer.publish("room", b"x"))
    await anyio.wait_all_tasks_blocked()
    assert not publishing.done()
    # One more loss forgets nobody.
    own_server.ask("CLIENT", "KILL", "TYPE", "normal")
    with pytest.raises(Exception, match="connection"):
        await publishing
    await layer.connect()
    publishing = asyncio.ensure_future(layer.publish("room", b"x"))
    await anyio.wait_all_tasks_blocked()
    assert not publishing.done()
    await other.connect()
    await publishing
    await layer.disconnect()
    await other.disconnect()


async def test_subscribers_of_a_pattern_are_no_nodes(server: brokers.Redis) -> None:
    with server.client() as client, client.pubsub() as monitor:
        monitor.psubscribe("*")
        monitor.get_message(timeout=5)
        layer = await connected(server.url, "one:")
        await becomes_true(lambda: nodes(server, b"one:") == 1)
        await layer.publish("room", b"x")
        await layer.connect()
        assert not layer.require_session().peers.waiting
        await layer.disconnect()


# ---- bound queues ----------------------------------------------------------------------------------------------------


async def test_bindings_are_looked_for_only_where_there_may_be_some(server: brokers.Redis, connect: Connect) -> None:
    one, other = await connect(server.url, scope=""), await connect(server.url, scope="")
    for layer in (one, other):
        await becomes_true(lambda layer=layer: not layer.require_session().peers.may_be_bound)  # type: ignore[misc]
    server.ask("CONFIG", "RESETSTAT")
    for _ in range(10):
        await one.publish("room", b"x")
    assert calls(server, "hgetall") == 0
    await other.bind("room", "jobs", **TERMS)  # type: ignore[arg-type]
    await publish(one, "room", b"1")
    assert await one.take("jobs") == b"1"
    late = await connect(server.url, scope="")
    await becomes_true(lambda: server.ask("GET", bindings_marker(b"").decode()) == "announced")
    await publish(late, "room", b"2")
    await publish(late, "elsewhere", b"x")
    assert await one.take("jobs") == b"2"
    published = calls(server, "publish")
    await other.bind("room", "work", **TERMS)  # type: ignore[arg-type]
    assert calls(server, "publish") == published, "all know it already"


async def test_a_publisher_without_a_scope_reaches_the_queues_of_any_scope(
    server: brokers.Redis, connect: Connect
) -> None:
    node, program = await connect(server.url, scope="asgi:"), await connect(server.url)
    await becomes_true(lambda: not node.require_session().peers.may_be_bound)
    await node.bind("room", "jobs", **TERMS)  # type: ignore[arg-type]
    await publish(program, "room", b"x")
    assert await node.take("jobs") == b"x"


async def test_a_binding_is_seen_by_every_node_when_bind_returns(server: brokers.Redis) -> None:
    for number in range(20):
        scope = f"scope {number}:"
        layers = [await connected(server.url, scope) for _ in range(3)]
        await becomes_true(lambda: nodes(server, scope.encode()) == 3)
        await layers[0].bind("room", "jobs", **TERMS)  # type: ignore[arg-type]
        for layer in layers:
            assert (await layer.publish("room", b"x")).bound_queues
        for layer in layers:
            await layer.disconnect()


async def test_a_node_that_does_not_confirm_is_not_waited_for_long(
    server: brokers.Redis, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_peers, "_CONFIRM_SECONDS", 0.1)
    layer = await connect(server.url)
    with server.client() as client, client.pubsub() as mute:
        mute.subscribe(nodes_channel(b"").decode())
        mute.get_message(timeout=5)
        with anyio.fail_after(30):
            await layer.bind("room", "jobs", **TERMS)  # type: ignore[arg-type]


async def test_no_more_confirmations_are_waited_for_than_nodes_have_received_the_announcement(
    server: brokers.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey 9.1 counts eight subscribers of one channel wrongly."""
    monkeypatch.setattr(redis_peers, "_CONFIRM_SECONDS", 120.0)
    layers = [await connected(server.url, "eight:") for _ in range(8)]
    with anyio.fail_after(30):
        await layers[0].bind("room", "jobs", **TERMS)  # type: ignore[arg-type]
    for layer in layers:
        await layer.disconnect()


async def test_a_mark_that_may_not_be_written_refuses_the_binding(server: brokers.Redis, connect: Connect) -> None:
    server.ask("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "resetkeys", "~{room}*", "~{jobs}*", "&*")
    layer = await connect(server.url, username="limited", password="secret")
    with pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.bind("room", "jobs", **TERMS)  # type: ignore[arg-type]


async def test_foreign_messages_on_the_nodes_channel_do_nothing(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url, scope="")
    await becomes_true(lambda: not layer.require_session().peers.may_be_bound)
    await layer.subscribe("room")
    with server.client(decode_responses=False) as raw:
        for garbage in (b"\xff\x00", b"bound", b"bound 9 room", b"bound x y", b"bound 99999 \xff"):
            raw.publish(nodes_channel(b""), garbage)
        raw.publish("room", b"last")
    with anyio.fail_after(30):
        assert (await layer.next_published()).message == b"last"
    assert not layer.require_session().peers.may_be_bound


# ---- databases -------------------------------------------------------------------------------------------------------


async def test_databases_keep_groups_patterns_and_queues_apart(server: brokers.Redis, connect: Connect) -> None:
    layers = [await connect(f"{server.url}/{database}") for database in (0, 1, 2)]
    for layer in layers:
        await layer.subscribe("room")
        await layer.subscribe_pattern("*oo*")
    for number, layer in enumerate(layers):
        assert await layer.publish("room", b"%d" % number)
    readers = [asyncio.ensure_future(layer.take("jobs")) for layer in layers]
    for database in range(3):
        with server.client(db=database) as client:
            await becomes_true(lambda client=client: client.llen("{jobs}|waiting") == 1)  # type: ignore[misc]
    for number, layer in enumerate(layers):
        await layer.put("jobs", b"%d" % number, capacity=9, expiry=60)
        assert await readers[number] == b"%d" % number
        await publish(layer, "last", b"")
    for number, layer in enumerate(layers):
        await layer.unsubscribe_pattern("*oo*")
        await layer.publish("room", b"end")
        with anyio.fail_after(30):
            events = [await layer.next_published() for _ in range(3)]
        assert sorted((event.group, event.message, event.subscription or "") for event in events) == [
            ("room", b"%d" % number, ""),
            ("room", b"%d" % number, "*oo*"),
            ("room", b"end", ""),
        ]
    assert "room" in server.ask("PUBSUB CHANNELS", "*"), "database 0 keeps its names"
    assert server.ask("PUBSUB NUMSUB", "room")[0][1] == 1


async def test_django_projects_on_two_databases_neither_hear_nor_flush_each_other(server: brokers.Redis) -> None:
    one, other = (AnyioChannelLayer(url=f"{server.url}/{database}") for database in (1, 2))
    with anyio.fail_after(30):
        names = [await layer.new_channel() for layer in (one, other)]
        for layer, name in zip((one, other), names, strict=True):
            await layer.group_add("room", name)
            await layer.group_add("room", "jobs")
        await one.group_send("room", {"type": "x"})
        await other.flush()
        await other.send("jobs", {"type": "y"})
        assert await one.receive(names[0]) == await one.receive("jobs") == {"type": "x"}
        assert await other.receive("jobs") == {"type": "y"}
        await one.group_send("room", {"type": "z"})
        assert await one.receive(names[0]) == {"type": "z"}
        await one.close()
        await other.close()


async def test_a_subclass_of_another_database_hears_all_its_groups(server: brokers.Redis) -> None:
    class Composite(RedisPubSubChannelLayer):
        async def subscribe(self, groups: str) -> None:
            await self._pubsub.subscribe(*groups.split(";"))

        async def unsubscribe(self, groups: str) -> None:
            await self._pubsub.unsubscribe(*groups.split(";"))

    async with Channel(Composite(f"{server.url}/3")) as channel, channel.subscribe("a;b") as subscriber:
        for group in ("a", "b"):
            await channel.publish(group, group)
        with anyio.fail_after(30):
            assert [(await anext(subscriber)).group for _ in range(2)] == ["a", "b"]


async def test_a_binding_that_is_cancelled_leaves_no_subscription(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await becomes_true(lambda: nodes(server) == 1)
    before = set(server.ask("PUBSUB CHANNELS"))
    with server.client() as client, client.pubsub() as mute:
        mute.subscribe(nodes_channel(b"").decode())
        mute.get_message(timeout=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: layer.bind("room", "jobs", **TERMS))  # type: ignore[arg-type]
            await becomes_true(lambda: set(server.ask("PUBSUB CHANNELS")) > before)
            tasks.cancel_scope.cancel()
    await becomes_true(lambda: set(server.ask("PUBSUB CHANNELS")) == before)


@pytest.mark.parametrize("database", [0, 1])
async def test_a_pattern_for_every_channel_gets_nothing_that_nodes_say(server: brokers.Redis, database: int) -> None:
    url = f"{server.url}/{database}"
    events: list[str] = []
    layer, other = [RedisPubSubChannelLayer(url, probe_interval=0.1) for _ in range(2)]
    await layer.connect()
    await layer.subscribe_pattern("*")
    await other.connect()
    await becomes_true(lambda: calls(server, "publish") > 10)
    await other.bind("room", "jobs", **TERMS)  # type: ignore[arg-type]
    await other.publish("room", b"x")
    with anyio.fail_after(30):
        while "room" not in events:
            events.append((await layer.next_published()).group)
    assert events == ["room"]
    for each in (layer, other):
        await each.disconnect()


async def test_a_binding_that_may_not_be_announced_is_refused_where_a_node_would_miss_it(
    server: brokers.Redis, connect: Connect
) -> None:
    server.ask("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&{jobs}*", "&room")
    layer = await connect(server.url, username="limited", password="secret")
    await layer.bind("room", "jobs", **TERMS)  # type: ignore[arg-type] # no node is there that would have to know it
    server.ask("FLUSHALL")
    await connect(server.url)
    await becomes_true(lambda: nodes(server) == 1)
    with pytest.raises(ChannelLayerError, match="refuses: NOPERM.*ACL SETUSER"):
        await layer.bind("room", "jobs", **TERMS)  # type: ignore[arg-type]


async def test_a_session_that_has_ended_is_joined_no_more() -> None:
    peers = redis_peers.Peers()
    peers._join()
    assert not peers._joined
