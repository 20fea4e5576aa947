"""Redis Cluster: groups spread over the masters, connections that break, masters that are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    AnyioChannelLayer,
    Channel,
    ChannelLayerError,
    DeliveryUnknown,
    ListenerClosed,
    NotSupported,
)
from django_anyio_channels.brokers.redis.keys import key_slot
from tests.brokers.redis.clusters import (
    GROUPS,
    PLENTY,
    connections,
    hand_over,
    layer_of,
    other_master,
    shard_channels,
    successor_of,
    works,
)
from tests.brokers.redis.conftest import Connect, becomes_true
from tests.support.brokers import redis as brokers
from tests.support.flow import GROUP, Flow, flow

pytestmark = pytest.mark.anyio


# ---- spread ----------------------------------------------------------------------------------------------------------


async def test_2000_groups_are_spread_and_connections_are_few(cluster: brokers.Cluster) -> None:
    groups = [f"room-{number}" for number in range(2000)]
    before = connections(cluster)
    async with Channel(layer_of(cluster), capacity=3000) as channel, channel.subscribe(*groups) as subscriber:
        at = [shard_channels(server, "room-") for server in cluster.masters]
        assert sorted(name for found in at for name in found) == sorted(groups)
        assert all(len(found) > 500 for found in at)
        for group in groups:
            assert (await channel.publish(group, group)).receivers == 1
        assert sorted([(await anext(subscriber)).message for _ in groups]) == sorted(groups)
        assert [now - then for now, then in zip(connections(cluster), before, strict=True)] == [2, 2, 2]
    await becomes_true(lambda: connections(cluster) == before)


async def test_patterns_are_refused(cluster: brokers.Cluster, connect: Connect) -> None:
    async with Channel(layer_of(cluster)) as channel:
        with pytest.raises(NotSupported, match="Redis Cluster has no patterns.*subscribe to each group by its name"):
            async with channel.subscribe(pattern="room-*"):
                pass
    layer = await connect(cluster.url)
    with pytest.raises(NotSupported, match="Redis Cluster has no patterns"):
        await layer.unsubscribe_pattern("room-*")


async def test_each_route_of_a_django_layer(cluster: brokers.Cluster) -> None:
    one, other = AnyioChannelLayer(url=cluster.url), AnyioChannelLayer(url=cluster.url)
    with anyio.fail_after(30):
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


async def test_out_of_memory(cluster: brokers.Cluster, connect: Connect) -> None:
    layer = await connect(cluster.url)
    owner = cluster.owner(key_slot(b"much"))
    owner.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ChannelLayerError, match=r"^redis\+cluster://.* refuses: OOM.*raise its maxmemory"):
        await layer.put("much", b"x", **PLENTY)
    owner.ask("CONFIG", "SET", "maxmemory", "0")
    await layer.put("much", b"x", **PLENTY)


# ---- connections that break ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_killed_connections_to_one_master(cluster: brokers.Cluster, kind: str) -> None:
    async with flow(lambda: layer_of(cluster)) as going:
        for server in cluster.masters:
            server.ask("CLIENT", "KILL", "TYPE", kind)
            await going.go_on()
    # Between the death of a reader's connection and that of the publisher's own, nobody can know; the gap is told.
    assert all(len(lost) <= 6 for lost in going.lost())
    assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
    assert len(going.gaps) == 6


async def test_what_a_living_master_says_after_the_death_of_another_is_heard(
    cluster: brokers.Cluster, connect: Connect
) -> None:
    layer = await connect(cluster.url)
    await layer.subscribe("room")
    owner = cluster.owner(key_slot(b"room"))
    next_event = asyncio.ensure_future(layer.next_published())
    other_master(cluster, key_slot(b"room")).ask("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(ListenerClosed):
        await asyncio.wait_for(next_event, 30)
    assert owner.ask("SPUBLISH", "room", "x") == 1
    with pytest.raises(ListenerClosed):
        await layer.next_published()
    await layer.connect()
    with anyio.fail_after(30):
        assert (await layer.next_published()).message == b"x"


async def test_all_masters_are_killed_and_restarted(cluster: brokers.Cluster) -> None:
    async with flow(lambda: layer_of(cluster), publish_timeout=20.0) as going:
        for server in cluster.masters:
            await going.kill(server)
        for server in cluster.masters:
            await run_sync(server.server.start)
        await going.go_on(seconds=30)
    assert going.lost() == [set(), set()]
    assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
    assert len(going.gaps) == 2


# ---- masters that are replaced ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("happening", [Flow.kill, Flow.freeze])
async def test_a_master_dies_and_its_replica_takes_over(
    replicated: brokers.Cluster, happening: Callable[[Flow, brokers.Redis], Awaitable[None]]
) -> None:
    master = replicated.owner(key_slot(GROUP.encode()))
    async with flow(lambda: layer_of(replicated), publish_timeout=20.0) as going:
        await happening(going, master)
        await going.go_on(seconds=30)
        assert len(going.gaps) == 2
        assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
        await works(going.publisher)
    assert going.lost() == [set(), set()]
    master.server.thaw()
    if not master.server.running:
        await run_sync(master.server.start)
    await becomes_true(lambda: master.ask("ROLE")[0] == "slave")


async def test_a_planned_failover_is_noticed_by_whoever_publishes(
    replicated: brokers.Cluster, connect: Connect
) -> None:
    """The former master would go on to take messages, and hand them to those who are still there."""
    layer = await connect(replicated.url, probe_interval=60.0)
    master = replicated.owner(key_slot(b"room"))
    successor = await successor_of(replicated, master)
    successor.ask("CLUSTER", "FAILOVER")
    await becomes_true(lambda: successor.ask("ROLE")[0] == "master" and master.ask("ROLE")[0] == "slave")
    with pytest.raises(ListenerClosed, match=f"127.0.0.1:{master.server.port}/0 is no master any more"):
        await layer.publish("room", b"x")
    await layer.connect()
    assert (await layer.publish("room", b"x")).receivers == 0
    await becomes_true(lambda: master.ask("ROLE")[3] == "connected")


async def test_a_planned_failover_to_a_replica(replicated: brokers.Cluster) -> None:
    async with flow(lambda: layer_of(replicated), publish_timeout=20.0) as going:
        await hand_over(replicated, GROUP)
        await becomes_true(lambda: len(going.gaps) >= 2)
        await going.go_on(seconds=20)
    # While the roles change, subscriptions follow a moment after the messages do; both readers were told.
    assert all(len(lost) <= 6 for lost in going.lost())
