"""Commands and subscriptions follow a slot that moves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    AnyioChannelLayer,
    Channel,
    ChannelLayerError,
    DeliveryUnknown,
    ListenerClosed,
)
from django_anyio_channels.brokers.redis.cluster import routing
from django_anyio_channels.brokers.redis.keys import (
    key_slot,
)
from django_anyio_channels.core.exceptions import SubscriptionRefused
from tests.brokers.redis.clusters import (
    GROUPS,
    PLENTY,
    calls,
    connections,
    halfway,
    layer_of,
    move,
    open_files,
    other_master,
    shard_channels,
)
from tests.brokers.redis.conftest import Connect, becomes_true
from tests.brokers.redis.test_workers import each_was_done_once, working
from tests.support.brokers import redis as brokers
from tests.support.flow import GROUP, flow

pytestmark = pytest.mark.anyio


async def test_a_slot_moves_while_messages_flow(cluster: brokers.Cluster) -> None:
    async with flow(lambda: layer_of(cluster)) as going:
        for _ in range(3):
            target = await move(cluster, GROUP)
            await going.go_on()
            assert shard_channels(target, GROUP) == {GROUP}
        assert going.publisher.outages == 0
    assert going.failed == []
    assert going.gaps == []
    # Each of the two readers was told, each time: between the two masters something may have been missed.
    assert going.missed == [GROUP] * 6
    print([len(lost) for lost in going.lost()])
    assert all(len(lost) <= 30 for lost in going.lost())


async def test_members_of_groups_that_moved_are_told(cluster: brokers.Cluster) -> None:
    layer = AnyioChannelLayer(url=cluster.url, outage_message="moved")
    with anyio.fail_after(30):
        member, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("here", member)
        await layer.group_add("there", other)
        await move(cluster, "asgi:g:here")
        told = await layer.receive(member)
        assert told["type"] == "moved"
        assert 0 < told["seconds"] < 30
        await layer.send(other, {"type": "nothing before"})
        assert await layer.receive(other) == {"type": "nothing before"}
    await layer.close()


async def test_queues_and_bindings_in_slots_that_move(cluster: brokers.Cluster) -> None:
    async with Channel(layer_of(cluster)) as reader, Channel(layer_of(cluster)) as sender:
        got: list[int] = []

        async def work() -> None:
            while True:
                got.append(reader.serializer.decode(await reader.queues.take("jobs")))

        await sender.queues.bind("room", "jobs", lifetime=60, **PLENTY)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            number = 0
            for name in ("jobs", "jobs", "room", "room"):
                await move(cluster, name)
                for _ in range(20):
                    number += 1
                    if number % 2:
                        await sender.publish("room", number)
                    else:
                        await sender.queues.put("jobs", sender.encode(number), **PLENTY)
                await becomes_true(lambda: len(got) == number)
            tasks.cancel_scope.cancel()
        assert got == list(range(1, number + 1))
        assert reader.outages == sender.outages == 0


async def test_bindings_that_have_ended_in_a_slot_that_is_on_its_way(
    cluster: brokers.Cluster, connect: Connect
) -> None:
    layer = await connect(cluster.url)
    slot = key_slot(b"room")
    source = cluster.owner(slot)
    source.ask("HSET", "{room}|queues", "ended", "1 1 1")
    target = other_master(cluster, slot)
    await run_sync(cluster.begin_move, slot, target)
    await layer.bind("room", "jobs", lifetime=60, **PLENTY)
    assert source.ask("HKEYS", "{room}|queues") == ["jobs"]
    source.ask("MIGRATE", "127.0.0.1", target.server.port, "{room}|queues", 0, 5000)
    await run_sync(cluster.end_move, slot, target)
    await layer.purge("")


async def test_each_job_goes_to_one_of_two_processes_while_the_queue_moves(
    cluster: brokers.Cluster, connect: Connect, tmp_path: Path
) -> None:
    layer = await connect(cluster.url)
    with working(cluster.url, tmp_path, 2) as workers:
        await becomes_true(workers.ready)
        sent = 0
        for _ in range(4):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(move, cluster, "jobs")
                for _ in range(300):
                    await layer.put("jobs", b"%d" % sent, **PLENTY)
                    sent += 1
        await each_was_done_once(workers, layer, sent)


async def test_a_slot_that_is_on_its_way(cluster: brokers.Cluster) -> None:
    """Half of a queue is at the old master, or none of it; the server says ASK and TRYAGAIN meanwhile."""
    async with Channel(layer_of(cluster)) as channel:
        await channel.queues.put("parcels", b"1", **PLENTY)
        target = await halfway(cluster, "parcels")
        putting = asyncio.ensure_future(channel.queues.put("parcels", b"2", **PLENTY))
        await channel.publish("parcels", "heard by nobody, refused by nobody")
        taking = asyncio.ensure_future(channel.queues.take("parcels"))
        with anyio.fail_after(30):
            cluster.end_move(key_slot(b"parcels"), target)
            await putting
            assert [await taking, await channel.queues.take("parcels")] == [b"1", b"2"]


async def test_readers_outwait_a_slot_that_is_on_its_way_for_long(
    cluster: brokers.Cluster, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routing, "_ATTEMPTS", 2)
    layer = await connect(cluster.url)
    await layer.put("parcels", b"1", **PLENTY)
    target = await halfway(cluster, "parcels")
    taking = asyncio.ensure_future(layer.take("parcels"))
    await becomes_true(lambda: caplog.text.count("Readers of parcels have to wait") > 1)
    assert not taking.done()
    cluster.end_move(key_slot(b"parcels"), target)
    with anyio.fail_after(30):
        assert await taking == b"1"
    assert "finish its migration" in caplog.text


async def test_who_may_not_take_is_told(cluster: brokers.Cluster, connect: Connect) -> None:
    layer = await connect(cluster.url)
    owner = cluster.owner(key_slot(b"jobs"))
    owner.ask("ACL", "SETUSER", "default", "-evalsha")
    try:
        with pytest.raises(ChannelLayerError, match=r"refuses: NOPERM .*evalsha"):
            await layer.take("jobs")
    finally:
        owner.ask("ACL", "SETUSER", "default", "+evalsha")


async def test_many_slots_move_under_many_groups(cluster: brokers.Cluster) -> None:
    missed: list[str] = []
    groups = GROUPS[:20]
    async with (
        Channel(layer_of(cluster), on_missed=lambda group, seconds: missed.append(group)) as channel,
        Channel(layer_of(cluster)) as other,
        channel.subscribe(*groups) as subscriber,
    ):
        for group in groups:
            await move(cluster, group)
        await becomes_true(lambda: len(missed) == len(groups))
        with anyio.fail_after(30):
            for group in groups:
                assert (await other.publish(group, group)).receivers == 1
            assert sorted([(await anext(subscriber)).message for _ in groups]) == sorted(groups)
        assert channel.outages == other.outages == 0
    assert sorted(missed) == sorted(groups), "each once"


async def test_what_was_given_up_is_not_subscribed_again(cluster: brokers.Cluster, connect: Connect) -> None:
    layer = await connect(cluster.url)
    for _ in range(3):
        for group in GROUPS:
            await layer.subscribe(group)
        for group in GROUPS:
            await layer.unsubscribe(group)
    assert not any(shard_channels(server, "room-") for server in cluster.masters)
    await layer.subscribe("left")
    async with anyio.create_task_group() as tasks:
        # The server says that the slot has left, and refuses that we leave it: both at once, in whichever order.
        tasks.start_soon(move, cluster, "left")
        tasks.start_soon(layer.unsubscribe, "left")
    await layer.subscribe("left")
    assert (await layer.publish("left", b"x")).receivers == 1
    with anyio.fail_after(30):
        assert (await layer.next_published()).message == b"x"


async def test_a_migration_that_never_ends(
    cluster: brokers.Cluster, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(cluster.url)
    await layer.put("parcels", b"1", **PLENTY)
    target = await halfway(cluster, "parcels")
    putting = asyncio.ensure_future(layer.put("parcels", b"2", **PLENTY))
    given_up = asyncio.ensure_future(layer.put("parcels", b"3", **PLENTY))
    await layer.publish("parcels", b"goes on")
    given_up.cancel()
    await layer.disconnect()
    with pytest.raises(DeliveryUnknown, match="The cluster was disconnected"):
        await putting
    monkeypatch.setattr(routing, "_ATTEMPTS", 3)
    await layer.connect()
    with pytest.raises(ChannelLayerError, match=r"refuses: TRYAGAIN.*finish its migration") as caught:
        await layer.put("parcels", b"2", **PLENTY)
    assert not isinstance(caught.value, ListenerClosed)
    cluster.end_move(key_slot(b"parcels"), target)


async def test_a_group_that_is_given_up_while_masters_disagree(
    cluster: brokers.Cluster, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two masters says that the other one has the slot."""
    layer = await connect(cluster.url)
    await layer.subscribe("lost")
    slot = key_slot(b"lost")
    source, target = cluster.owner(slot), other_master(cluster, slot)
    target.ask("CONFIG", "RESETSTAT")
    tasks = len(asyncio.all_tasks())
    source.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
    await becomes_true(lambda: calls(target, "ssubscribe"))
    await layer.unsubscribe("lost")
    await becomes_true(lambda: len(asyncio.all_tasks()) == tasks)
    monkeypatch.setattr(routing, "_ATTEMPTS", 3)
    with pytest.raises(SubscriptionRefused, match=r"refuses the subscription to 'lost': MOVED [\d .:]*$"):
        await layer.subscribe("lost")
    cluster.end_move(slot, target)
    assert (await layer.publish("lost", b"x")).receivers == 0


async def test_a_new_master_takes_slots_over(growing: brokers.Cluster) -> None:
    new = growing.masters[2]
    async with flow(lambda: layer_of(growing)) as going:
        assert connections(growing)[2] == 0
        await run_sync(growing.move, key_slot(GROUP.encode()), new)
        await going.go_on()
        assert connections(growing)[2] == 6
        await run_sync(growing.move, key_slot(b"jobs"), new)
        other = layer_of(growing)
        await other.connect()
        await other.put("jobs", b"x", **PLENTY)
        await going.publisher.queues.purge("jobs")
        assert new.ask("KEYS", "*jobs*") == []
        await other.disconnect()
        assert going.publisher.outages == 0
    assert going.failed == []
    assert going.missed == [GROUP] * 2


async def test_a_new_master_that_cannot_be_reached(growing: brokers.Cluster, connect: Connect) -> None:
    publisher, sender, reader = [await connect(growing.url) for _ in range(3)]
    await reader.subscribe("room")
    new = growing.masters[2]
    identity = new.ask("CLUSTER", "MYID")
    await run_sync(new.server.kill)
    for name in (b"room", b"jobs"):
        growing.owner(key_slot(name)).ask("CLUSTER", "SETSLOT", key_slot(name), "NODE", identity)
    reason = rf"127\.0\.0\.1:{new.server.port}/0: .*Check that the server runs"
    with pytest.raises(DeliveryUnknown, match=reason):
        await publisher.publish("room", b"x")
    with pytest.raises(DeliveryUnknown, match=reason):
        await sender.put("jobs", b"x", **PLENTY)
    for layer in (publisher, sender, reader):
        with pytest.raises(ListenerClosed, match=reason):
            await layer.next_published()


async def test_a_session_that_ends_before_a_new_master_has_answered(growing: brokers.Cluster, connect: Connect) -> None:
    publisher, purger = await connect(growing.url), await connect(growing.url)
    new = growing.masters[2]
    await run_sync(growing.move, key_slot(b"room"), new)
    before = open_files()
    with new.server.frozen():
        publishing = asyncio.ensure_future(publisher.publish("room", b"x"))
        purging = asyncio.ensure_future(purger.purge("room"))
        await becomes_true(lambda: open_files() > before + 1)
        await publisher.disconnect()
        await purger.disconnect()
    with pytest.raises(DeliveryUnknown, match="was disconnected"):
        await publishing
    with pytest.raises(ListenerClosed, match="was disconnected"):
        await purging
    await becomes_true(lambda: connections(growing)[2] == 0)


async def test_a_new_master_that_refuses_the_subscription(growing: brokers.Cluster) -> None:
    new = growing.masters[2]
    async with Channel(layer_of(growing)) as channel, channel.subscribe("room") as subscriber:
        new.ask("ACL", "SETUSER", "default", "resetchannels")
        await run_sync(growing.move, key_slot(b"room"), new)
        await becomes_true(lambda: channel.outages)
        new.ask("ACL", "SETUSER", "default", "allchannels")
        with growing.masters[0].client() as admin:
            brokers.cut_off(admin)
        await becomes_true(lambda: shard_channels(new, "room"))
        await channel.publish("room", 1)
        with anyio.fail_after(30):
            assert (await anext(subscriber)).message == 1


async def test_an_idle_session_survives_a_slot_that_moves_away_and_back(cluster: brokers.Cluster) -> None:
    layer = layer_of(cluster)
    await layer.connect()
    home = cluster.masters[0]
    (channel,) = shard_channels(home, "anyio-channels:nodes{*}:probe")
    slot, counted = key_slot(channel.encode()), calls(home, "ping")
    await run_sync(cluster.move, slot, other_master(cluster, slot))
    await run_sync(cluster.move, slot, home)
    await becomes_true(lambda: calls(home, "ping") > counted + 2)
    assert layer.is_connected
    await layer.disconnect()
