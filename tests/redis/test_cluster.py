"""Redis Cluster: groups spread over the masters, slots that move, masters that are replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    AnyioChannelLayer,
    Channel,
    DeliveryUnknown,
    ListenerClosed,
    NotSupported,
    RedisPubSubChannelLayer,
)
from django_anyio_channels.layers.redis_slots import ClusterAddress, slot_of, tag_in
from tests.brokers import redis as brokers
from tests.brokers.server import free_port

from .conftest import becomes_true
from .flow import GROUP, flow

pytestmark = pytest.mark.anyio

GROUPS = [f"room-{number}" for number in range(60)]
PLENTY: dict[str, Any] = {"capacity": 10_000, "expiry": 60.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[brokers.Cluster]:
    """Three masters. Tests may move slots."""
    with brokers.cluster() as made:
        yield made


@pytest.fixture(scope="module")
def replicated() -> Iterator[brokers.Cluster]:
    """Three masters, each with a replica. Tests may kill a master that has one."""
    with brokers.cluster(replicas=3) as made:
        yield made


def layer_of(cluster: brokers.Cluster) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(cluster.url, probe_interval=1.0)


def connections(cluster: brokers.Cluster) -> list[int]:
    """How many clients each master has besides who asks."""
    return [len(server.ask("CLIENT LIST")) - 1 for server in cluster.masters]


def shard_channels(server: brokers.Redis, beginning: str) -> set[str]:
    return set(server.ask("PUBSUB SHARDCHANNELS", f"{beginning}*"))


def other_master(cluster: brokers.Cluster, slot: int) -> brokers.Redis:
    return next(server for server in cluster.masters if server is not cluster.owner(slot))


# ---- slots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["asgi:g:room", "{a}b", "a{b}c", "{}x", "a}b{c", "{{b}}", "naïve Ω", ""])
def test_slots_are_those_of_the_server(cluster: brokers.Cluster, name: str) -> None:
    assert slot_of(name.encode()) == cluster.masters[0].ask("CLUSTER", "KEYSLOT", name)


def test_tags_lead_to_their_slots() -> None:
    for slot in (0, 1, 5461, 16383):
        assert slot_of(b"anything{%b}" % tag_in(slot)) == slot


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_addresses() -> None:
    address = ClusterAddress("rediss+cluster://user:secret@a:7000,[::1]:7001,b?ssl_cert_reqs=none", {}, frozenset())
    assert str(address) == "rediss+cluster://a:7000,::1:7001,b:6379"
    assert str(address.node("c", 7002)) == "rediss://c:7002/0"
    assert address.node("c", 7002).options["password"] == "secret"
    address.learn([("c", 1), ("a", 7000)])
    assert address.nodes == [("c", 1), ("a", 7000), ("::1", 7001), ("b", 6379)]
    address.avoid(("c", 1))
    assert address.nodes[-1] == ("c", 1)


def test_a_cluster_has_one_database() -> None:
    assert RedisPubSubChannelLayer("redis+cluster://a:7000/0").address == "redis+cluster://a:7000"
    with pytest.raises(ValueError, match=r"'redis\+cluster://a:7000/3' names a database"):
        RedisPubSubChannelLayer("redis+cluster://:secret@a:7000/3")


async def test_a_server_that_is_no_cluster(server: brokers.Redis) -> None:
    layer = RedisPubSubChannelLayer(server.url.replace("redis://", "redis+cluster://"))
    with pytest.raises(ListenerClosed, match=r"cluster support disabled.*write redis:// for it"):
        await layer.connect()


async def test_nodes_that_do_not_answer(cluster: brokers.Cluster) -> None:
    nobody = free_port()
    layer = RedisPubSubChannelLayer(f"redis+cluster://127.0.0.1:{nobody}")
    with pytest.raises(ListenerClosed, match=rf"127\.0\.0\.1:{nobody}: no node answers; the last one"):
        await layer.connect()
    living = cluster.masters[2].server.port
    layer = RedisPubSubChannelLayer(f"redis+cluster://127.0.0.1:{nobody},127.0.0.1:{living}")
    await layer.connect()
    await layer.publish("room", b"x")
    await layer.disconnect()


async def test_slots_that_nobody_serves() -> None:
    lonely = brokers.plain("valkey", "--cluster-enabled", "yes")
    with brokers.running(lonely):
        lonely.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16381)
        layer = RedisPubSubChannelLayer(f"redis+cluster://127.0.0.1:{lonely.server.port}")
        with pytest.raises(ListenerClosed, match="2 slots of the cluster are served by nobody"):
            await layer.connect()


# ---- spread ----------------------------------------------------------------------------------------------------------


async def test_groups_are_spread_and_connections_are_few(cluster: brokers.Cluster) -> None:
    before = connections(cluster)
    async with Channel(layer_of(cluster)) as channel, channel.subscribe(*GROUPS) as subscriber:
        assert [now - then for now, then in zip(connections(cluster), before, strict=True)] == [2, 2, 2]
        at = [shard_channels(server, "room-") for server in cluster.masters]
        assert all(at)
        assert sorted(name for found in at for name in found) == sorted(GROUPS)
        for group in GROUPS:
            assert await channel.publish(group, group) == 1
        assert sorted([(await anext(subscriber)).message for _ in GROUPS]) == sorted(GROUPS)
    await becomes_true(lambda: connections(cluster) == before)


async def test_patterns_are_refused(cluster: brokers.Cluster) -> None:
    async with Channel(layer_of(cluster)) as channel:
        with pytest.raises(NotSupported, match="Redis Cluster has no patterns.*subscribe to each group by its name"):
            async with channel.subscribe(pattern="room-*"):
                pass


async def test_each_route_of_a_django_layer(cluster: brokers.Cluster) -> None:
    one, other = AnyioChannelLayer(url=cluster.url), AnyioChannelLayer(url=cluster.url)
    with anyio.fail_after(20):
        name, stranger = await one.new_channel(), await other.new_channel()
        for group in GROUPS[:12]:
            await one.group_add(group, name)
            await one.group_add(group, stranger)
            await one.group_add(group, "jobs")
        for group in GROUPS[:12]:
            await other.group_send(group, {"type": "x", "group": group})
        for layer, channel in ((one, name), (other, stranger), (one, "jobs")):
            assert sorted([(await layer.receive(channel))["group"] for _ in range(12)]) == sorted(GROUPS[:12])
        await other.send(name, {"type": "y"})
        assert await one.receive(name) == {"type": "y"}
        await other.send("jobs", {"type": "old"})
        await one.flush()
        assert [server.ask("KEYS", "*asgi*") for server in cluster.masters] == [[], [], []]
        for group in GROUPS[:12]:
            await one.group_send(group, {"type": "nobody"})
        await one.send("jobs", {"type": "z"})
        assert await other.receive("jobs") == {"type": "z"}
    await one.close()
    await other.close()


# ---- slots that move -------------------------------------------------------------------------------------------------


async def test_a_slot_moves_while_messages_flow(cluster: brokers.Cluster) -> None:
    slot = slot_of(GROUP.encode())
    async with flow(lambda: layer_of(cluster)) as going:
        for _ in range(3):
            target = other_master(cluster, slot)
            await run_sync(cluster.move, slot, target)
            await going.go_on()
            assert shard_channels(target, GROUP) == {GROUP}
        outages = [going.publisher.outages]
    assert going.failed == []
    assert outages == [0]
    # Each of the two readers was told, each time: between the two masters something may have been missed.
    assert len(going.gaps) == 6
    assert max(going.gaps) < 1.0
    assert all(len(lost) <= 30 for lost in going.lost())


async def test_queues_and_bindings_in_slots_that_move(cluster: brokers.Cluster) -> None:
    async with Channel(layer_of(cluster)) as reader, Channel(layer_of(cluster)) as sender:
        got: list[int] = []

        async def work() -> None:
            while True:
                got.append(reader.serializer.decode(await reader.take("jobs")))

        await sender.bind("room", "jobs", lifetime=60, **PLENTY)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            number = 0
            for slot in (slot_of(b"jobs"), slot_of(b"room")):
                for _ in range(2):
                    await run_sync(cluster.move, slot, other_master(cluster, slot))
                    for _ in range(20):
                        number += 1
                        if number % 2:
                            await sender.publish("room", number)
                        else:
                            await sender.put("jobs", sender.encode(number), **PLENTY)
                    await becomes_true(lambda: len(got) == number)
            tasks.cancel_scope.cancel()
        assert got == list(range(1, number + 1))


async def test_a_slot_that_is_on_its_way(cluster: brokers.Cluster) -> None:
    """Half of a queue is at the old master, or none of it; the server says ASK and TRYAGAIN meanwhile."""
    slot = slot_of(b"parcels")
    source = cluster.owner(slot)
    target = other_master(cluster, slot)
    async with Channel(layer_of(cluster)) as channel:
        await channel.put("parcels", b"1", **PLENTY)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
        # The queue's list has gone ahead; what is in flight of it is nowhere yet: each script has to wait or to follow.
        source.ask("MIGRATE", "127.0.0.1", target.server.port, "parcels", 0, 5000)
        putting = asyncio.ensure_future(channel.put("parcels", b"2", **PLENTY))
        await channel.publish("parcels", "heard by nobody, refused by nobody")
        taking = asyncio.ensure_future(channel.take("parcels"))
        with anyio.fail_after(10):
            for each in (target, source, *cluster.masters):
                each.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
            await putting
            assert [await taking, await channel.take("parcels")] == [b"1", b"2"]


async def test_many_slots_move_under_many_groups(cluster: brokers.Cluster) -> None:
    gaps: list[float] = []
    groups = GROUPS[:20]
    async with (
        Channel(layer_of(cluster), on_gap=gaps.append) as channel,
        Channel(layer_of(cluster)) as other,
        channel.subscribe(*groups) as subscriber,
    ):
        for group in groups:
            slot = slot_of(group.encode())
            await run_sync(cluster.move, slot, other_master(cluster, slot))
        await becomes_true(
            lambda: sum(len(shard_channels(server, "room-")) for server in cluster.masters) == len(groups)
        )
        with anyio.fail_after(10):
            for group in groups:
                assert await other.publish(group, group) == 1
            assert sorted([(await anext(subscriber)).message for _ in groups]) == sorted(groups)
        assert channel.outages == other.outages == 0
        assert 1 <= len(gaps) <= len(groups)


async def test_what_was_given_up_is_not_subscribed_again(cluster: brokers.Cluster) -> None:
    layer = layer_of(cluster)
    await layer.connect()
    for _ in range(3):
        for group in GROUPS:
            await layer.subscribe(group)
        for group in GROUPS:
            await layer.unsubscribe(group)
    assert not any(shard_channels(server, "room-") for server in cluster.masters)
    slot = slot_of(b"left")
    await layer.subscribe("left")
    async with anyio.create_task_group() as tasks:
        # The server says that the slot has left, and refuses that we leave it: both at once, in whichever order.
        tasks.start_soon(run_sync, cluster.move, slot, other_master(cluster, slot))
        tasks.start_soon(layer.unsubscribe, "left")
    await layer.subscribe("left")
    assert await layer.publish("left", b"x") == 1
    with anyio.fail_after(5):
        assert (await layer.next_published()).message == b"x"
    await layer.disconnect()


# ---- masters that are replaced ---------------------------------------------------------------------------------------


async def killed(cluster: brokers.Cluster, server: brokers.Redis) -> None:
    await run_sync(server.server.kill)


async def frozen(cluster: brokers.Cluster, server: brokers.Redis) -> None:
    server.server.freeze()


@pytest.mark.parametrize("happening", [killed, frozen])
async def test_a_master_dies_and_its_replica_takes_over(
    replicated: brokers.Cluster, happening: Callable[[brokers.Cluster, brokers.Redis], Awaitable[None]]
) -> None:
    slot = slot_of(GROUP.encode())
    master = replicated.owner(slot)
    async with flow(lambda: layer_of(replicated), publish_timeout=20.0) as going:
        before = time.monotonic()
        await happening(replicated, master)
        await going.go_on(seconds=30)
        print(f"back after {time.monotonic() - before:.1f} s")
        assert len(going.gaps) == 2
        assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
    assert going.lost() == [set(), set()]
    master.server.thaw()
    if not master.server.running:
        await run_sync(master.server.start)
    await becomes_true(lambda: master.ask("ROLE")[0] == "slave", seconds=20)


async def test_a_planned_failover_to_a_replica(replicated: brokers.Cluster) -> None:
    slot = slot_of(GROUP.encode())
    master = replicated.owner(slot)
    successor = next(
        each
        for each in (*replicated.masters, *replicated.replicas)
        if each.ask("ROLE")[0] == "slave" and each.ask("ROLE")[2] == master.server.port
    )
    async with flow(lambda: layer_of(replicated), publish_timeout=20.0) as going:
        await becomes_true(lambda: successor.ask("ROLE")[3] == "connected")
        successor.ask("CLUSTER", "FAILOVER")
        await becomes_true(lambda: shard_channels(successor, GROUP) == {GROUP}, seconds=20)
        await becomes_true(lambda: len(going.gaps) >= 2)
        await going.go_on(seconds=20)
    # While the roles change, subscriptions follow a moment after the messages do; both readers were told.
    assert all(len(lost) <= 6 for lost in going.lost())
