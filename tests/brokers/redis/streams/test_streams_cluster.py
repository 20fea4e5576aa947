"""Histories in a Redis Cluster: nothing is missed when slots move and masters are replaced, or a gap is reported."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    AnyioChannelLayer,
    Channel,
    ChannelLayerError,
    DeliveryUnknown,
    Event,
    ListenerClosed,
    NotSupported,
    PositionLost,
    PublishResult,
    RedisStreamsChannelLayer,
    Subscriber,
    position_of,
)
from django_anyio_channels.brokers.redis.cluster import routing as redis_masters
from django_anyio_channels.brokers.redis.keys import key_slot
from tests.brokers.redis.clusters import calls, hand_over, killed, move, other_master, shard_channels, successor_of
from tests.brokers.redis.conftest import becomes_true
from tests.brokers.redis.test_workers import running
from tests.support.brokers import redis as brokers
from tests.support.flow import GROUP, Flow, all_go_on, flow, flows, nothing_missed

from .job_worker import CHANNEL, config, give

pytestmark = pytest.mark.anyio

PLENTY: dict[str, Any] = {"capacity": 10_000, "expiry": 60.0}


def layer_of(cluster: brokers.Cluster, **options: Any) -> RedisStreamsChannelLayer:
    options = {"probe_interval": 1.0, "history_length": 10_000, **options}
    return RedisStreamsChannelLayer(brokers.with_streams(cluster.url), **options)


@pytest.fixture
async def channel(cluster: brokers.Cluster) -> AsyncIterator[Channel]:
    async with Channel(layer_of(cluster)) as opened:
        yield opened


def one_at_each(cluster: brokers.Cluster, name: str = GROUP) -> list[str]:
    """Names of which each has another master; the first is ``name``."""
    found = {cluster.owner(key_slot(name.encode())).server.port: name}
    number = 0
    while len(found) < 3:
        number += 1
        other = f"{name}-{number}"
        found.setdefault(cluster.owner(key_slot(other.encode())).server.port, other)
    return list(found.values())


async def numbers(channel: Channel, group: str, **options: Any) -> list[int]:
    return [event.message for event in await channel.history(group, **options)]


async def received(subscriber: Subscriber, count: int) -> list[Any]:
    with anyio.fail_after(30):
        return [(await anext(subscriber)).message for _ in range(count)]


def all_came_or_a_gap_was_reported(going: Flow) -> bool:
    return bool(going.missed) or going.lost() == [set()] * len(going.received)


# ---- what it can do --------------------------------------------------------------------------------------------------


async def test_histories_at_every_master(cluster: brokers.Cluster, channel: Channel) -> None:
    for group in one_at_each(cluster, "room"):
        accepted = [await channel.publish(group, number) for number in range(300)]
        positions = [each.position for each in accepted if isinstance(each, PublishResult)]
        assert await numbers(channel, group) == list(range(300))
        assert await numbers(channel, group, limit=2) == [298, 299]
        assert await numbers(channel, group, since=positions[9]) == list(range(10, 300))
        assert shard_channels(cluster.owner(key_slot(group.encode())), group) == set()
        async with channel.subscribe(group, since=positions[-3]) as subscriber:
            assert (await channel.publish(group, 300)).receivers == 1
            assert await received(subscriber, 3) == [298, 299, 300]


async def test_histories_go_along_with_their_slots(cluster: brokers.Cluster, channel: Channel) -> None:
    accepted = await channel.publish("room", 0)
    assert isinstance(accepted, PublishResult)
    await channel.publish("room", 1)
    await move(cluster, "room")
    await channel.publish("room", 2)
    await move(cluster, "room")
    assert await numbers(channel, "room", since=accepted.position) == [1, 2]
    last = await channel.layer.position("room")
    assert [event.position for event in await channel.history("room", limit=1)] == [last]
    async with channel.subscribe("room", since=accepted.position) as subscriber:
        await move(cluster, "room")
        await channel.publish("room", 3)
        assert await received(subscriber, 3) == [1, 2, 3]
    cluster.owner(key_slot(b"room")).ask("DEL", "{room}|history")
    with pytest.raises(PositionLost, match="history of room does not reach back"):
        await channel.history("room", since=accepted.position)


async def test_patterns_are_refused(channel: Channel) -> None:
    with pytest.raises(NotSupported, match="Redis Cluster has no patterns.*subscribe to each group by its name"):
        async with channel.subscribe(pattern="room-*"):
            pass


async def test_purge(cluster: brokers.Cluster, channel: Channel) -> None:
    mine, others = one_at_each(cluster, "mine:room"), one_at_each(cluster, "others:room")
    for group in mine + others:
        async with channel.subscribe(group, consumer_group="workers", ack="manual") as reader:
            await channel.publish(group, 1)
            await received(reader, 1)
    before = sorted(key for server in cluster.masters for key in server.ask("KEYS", "*others:*"))
    await channel.queues.purge("mine:")
    for group in mine:
        assert await numbers(channel, group) == []
    for group in others:
        assert await numbers(channel, group) == [1]
    left = [key for server in cluster.masters for key in server.ask("KEYS", "*mine:*")]
    assert not [key for key in left if "history" in key or "pending" in key]
    assert sorted(key for server in cluster.masters for key in server.ask("KEYS", "*others:*")) == before


async def test_each_master_has_a_mark_whose_name_begins_with_the_prefix(cluster: brokers.Cluster) -> None:
    """A user with no right to other names could not tell that a master has lost its memory."""
    layer = AnyioChannelLayer(url=brokers.with_streams(cluster.url), prefix="marked")
    await layer.group_add("room", await layer.new_channel())
    found = [server.ask("KEYS", "*marked:*memory") for server in cluster.masters]
    assert [len(keys) for keys in found] == [1] * len(cluster.masters)
    assert all(key.startswith("marked:") for keys in found for key in keys)
    await layer.close()


async def test_each_route_of_a_django_layer(cluster: brokers.Cluster) -> None:
    setting: dict[str, Any] = {"url": brokers.with_streams(cluster.url), "acknowledged": ["work"]}
    one, other = AnyioChannelLayer(**setting), AnyioChannelLayer(**setting)
    with anyio.fail_after(30):
        name, stranger = await one.new_channel(), await other.new_channel()
        await one.group_add("room", stranger)
        await one.group_add("room", "jobs")
        position = await one.group_resume("room", name)
        for number in range(3):
            await other.group_send("room", {"type": "x", "n": number})
        for layer, member in ((one, name), (other, stranger), (one, "jobs")):
            messages = [await layer.receive(member) for _ in range(3)]
            assert [message["n"] for message in messages] == [0, 1, 2]
            if member == name:
                position = position_of(messages[0])
        late = await other.new_channel()
        await other.group_resume("room", late, since=position)
        assert [(await other.receive(late))["n"] for _ in range(2)] == [1, 2]
        assert [event.message["n"] for event in await one.group_history("room")] == [0, 1, 2]
        await other.send("work", {"type": "y"})
        assert await one.receive("work") == {"type": "y"}
        await one.flush()
        assert await one.group_history("room") == []
    await one.close()
    await other.close()


async def test_tls_with_a_password(protected: brokers.Cluster) -> None:
    async with flow(lambda: layer_of(protected)) as going:
        await move_by_hand(protected, GROUP)
        await going.go_on()
    assert nothing_missed(going)
    assert going.publisher.layer.address.startswith("rediss+cluster://127.0.0.1:")
    assert "horse" not in going.publisher.layer.address


async def move_by_hand(cluster: brokers.Cluster, name: str) -> None:
    """Where servers want TLS, ``MIGRATE`` between them needs an authentication that `brokers.Cluster.move` has not."""
    slot = key_slot(name.encode())
    target = other_master(cluster, slot)
    source = await run_sync(cluster.begin_move, slot, target)
    password = ("AUTH", brokers.PASSWORD)
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.ask("MIGRATE", "127.0.0.1", target.server.port, "", 0, 5000, *password, "KEYS", *keys)
    await run_sync(cluster.end_move, slot, target)


# ---- slots that move -------------------------------------------------------------------------------------------------


async def test_slots_move_while_messages_flow(cluster: brokers.Cluster) -> None:
    groups = one_at_each(cluster)
    async with flows(lambda: layer_of(cluster), groups) as all_going:
        for _ in range(2):
            for group, going in all_going.items():
                target = await move(cluster, group)
                await going.go_on(20)
                assert group in shard_channels(target, group)
        assert going.publisher.outages == 0
    for going in all_going.values():
        assert nothing_missed(going)
        assert going.failed == []


async def test_many_slots_move_under_many_groups(cluster: brokers.Cluster) -> None:
    groups = [f"many-{number}" for number in range(20)]
    async with flows(lambda: layer_of(cluster), groups, readers=1) as all_going:
        for group in groups:
            await move(cluster, group)
        await all_go_on(all_going, 1)
        assert all_going[groups[0]].publisher.outages == 0
    for going in all_going.values():
        assert nothing_missed(going)
        assert going.failed == []


async def test_what_is_published_at_the_new_master_before_a_node_subscribes_there(
    cluster: brokers.Cluster, channel: Channel
) -> None:
    missed: list[str] = []
    async with (
        Channel(layer_of(cluster), on_missed=lambda group, seconds: missed.append(group)) as reader,
        reader.subscribe("room", capacity=1000) as subscriber,
    ):
        # With a queue, all keys that publishing touches are there, so that the new master can do without the old one.
        await channel.queues.bind("room", "queue", lifetime=60, **PLENTY)
        await channel.publish("room", 1)
        assert await received(subscriber, 1) == [1]
        slot = key_slot(b"room")
        target = other_master(cluster, slot)
        source = await run_sync(cluster.begin_move, slot, target)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
        source.ask("MIGRATE", "127.0.0.1", target.server.port, "", 0, 5000, "KEYS", *keys)
        for number in range(2, 600):
            assert (await channel.publish("room", number)).receivers == 0, "nobody listens there yet"
        await run_sync(cluster.end_move, slot, target)
        assert await received(subscriber, 598) == list(range(2, 600))
        await channel.publish("room", 600)
        assert await received(subscriber, 1) == [600]
        assert reader.outages == 0
    assert missed == []
    await channel.queues.purge("")


async def test_a_slot_that_is_on_its_way(
    cluster: brokers.Cluster, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as neither master has all that belongs to a group, it waits, and is refused at last."""
    async with channel.subscribe("parcels", "else") as subscriber:
        await channel.publish("parcels", 1)
        slot = key_slot(b"parcels")
        target = other_master(cluster, slot)
        source = await run_sync(cluster.begin_move, slot, target)
        source.ask("MIGRATE", "127.0.0.1", target.server.port, "{parcels}|position", 0, 5000)
        await channel.publish("else", 0)
        with monkeypatch.context() as impatient:
            impatient.setattr(redis_masters, "_ATTEMPTS", 3)
            with pytest.raises(ChannelLayerError, match=r"refuses: TRYAGAIN.*finish its migration") as caught:
                await channel.publish("parcels", "refused")
            assert not isinstance(caught.value, ListenerClosed)
            with pytest.raises(ChannelLayerError, match=r"refuses: TRYAGAIN.*finish its migration"):
                await channel.layer.position("parcels")
        source.ask("CONFIG", "RESETSTAT")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.publish, "parcels", 2)
            await becomes_true(lambda: calls(source, "evalsha"))
            source.ask("MIGRATE", "127.0.0.1", target.server.port, "{parcels}|history", 0, 5000)
            await run_sync(cluster.end_move, slot, target)
        assert await received(subscriber, 3) == [1, 0, 2]
        assert channel.outages == 0


async def test_a_group_that_moves_without_its_history_gets_a_gap(cluster: brokers.Cluster, channel: Channel) -> None:
    missed: list[tuple[str, float]] = []
    async with (
        Channel(layer_of(cluster), on_missed=lambda *what: missed.append(what)) as reader,
        reader.subscribe("room", "other") as subscriber,
    ):
        await channel.publish("room", 1)
        slot = key_slot(b"room")
        target = other_master(cluster, slot)
        source = await run_sync(cluster.begin_move, slot, target)
        source.ask("DEL", "{room}|history", "{room}|position")
        await run_sync(cluster.end_move, slot, target)
        await becomes_true(lambda: missed)
        await channel.publish("room", 2)
        assert await received(subscriber, 2) == [1, 2]
    [(group, seconds)] = missed
    assert group == "room"
    assert seconds > 0, "though there was no outage"


async def test_no_gap_is_reported_where_nothing_is_missed(cluster: brokers.Cluster) -> None:
    layer = AnyioChannelLayer(url=brokers.with_streams(cluster.url), outage_message="moved")
    with anyio.fail_after(30):
        member = await layer.new_channel()
        await layer.group_add("here", member)
        [inbox] = {name for server in cluster.masters for name in shard_channels(server, "asgi:i:")}
        for topic in ("asgi:g:here", inbox):
            target = await move(cluster, topic)
            await becomes_true(lambda: topic in shard_channels(target, topic))
            await layer.group_send("here", {"type": "to all"})
            await layer.send(member, {"type": "to one"})
            messages = [await layer.receive(member) for _ in range(2)]
            assert sorted(message["type"] for message in messages) == ["to all", "to one"]
    await layer.close()


async def test_a_group_without_history_gets_a_gap(cluster: brokers.Cluster) -> None:
    missed: list[str] = []
    layer = layer_of(cluster)
    layer.disable_history("news")
    async with (
        Channel(layer, on_missed=lambda group, seconds: missed.append(group)) as channel,
        channel.subscribe("news", "room"),
    ):
        await move(cluster, "room")
        await move(cluster, "news")
        await becomes_true(lambda: missed)
    assert missed == ["news"]


# ---- acknowledged work -----------------------------------------------------------------------------------------------


async def test_consumer_groups_in_slots_that_move(cluster: brokers.Cluster) -> None:
    done: list[int] = []

    async def work(reader: Subscriber) -> None:
        async for event in reader:
            done.append(event.message)
            await event.ack()

    def layer() -> RedisStreamsChannelLayer:
        return layer_of(cluster, consumer_group="workers")

    async with (
        Channel(layer()) as one,
        Channel(layer()) as two,
        one.subscribe("tasks", ack="manual") as first,
        two.subscribe("tasks", ack="manual") as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(work, first)
        tasks.start_soon(work, second)
        sent = 0
        for _ in range(4):
            async with anyio.create_task_group() as moving:
                moving.start_soon(move, cluster, "tasks")
                for _ in range(100):
                    await one.publish("tasks", sent)
                    sent += 1
            await becomes_true(lambda: len(done) >= sent)
        assert one.outages == two.outages == 0
        tasks.cancel_scope.cancel()
    assert sorted(done) == list(range(sent))


async def test_work_goes_on_at_a_master_that_still_has_all_of_it(cluster: brokers.Cluster) -> None:
    """Once its slot is on its way, what a script empties there is out of its reach."""
    layer = layer_of(cluster)
    async with Channel(layer) as channel:
        for number in range(3):
            await channel.queues.put("work", b"%d" % number, **PLENTY)
        with anyio.fail_after(30):
            events = [await layer.receive_job("work") for _ in range(2)]
            slot = key_slot(b"work")
            target = other_master(cluster, slot)
            source = await run_sync(cluster.begin_move, slot, target)
            waiting = [asyncio.ensure_future(layer.receive_job("work")) for _ in range(2)]
            [first], [second] = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            events.append(first.result())
            keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
            source.ask("MIGRATE", "127.0.0.1", target.server.port, "", 0, 5000, "KEYS", *keys)
            await run_sync(cluster.end_move, slot, target)
            await channel.queues.put("work", b"3", **PLENTY)
            events.append(await second)
            assert [(event.message, event.deliveries) for event in events] == [(b"%d" % n, 1) for n in range(4)]
            for event in events:
                assert event.ack_handle is not None
                await event.ack_handle.release()
        assert target.ask("ZCARD", "{work}|pending") == 0


async def test_readers_outwait_a_slot_that_nobody_serves_for_long(
    cluster: brokers.Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_masters, "_ATTEMPTS", 2)
    slot = key_slot(b"patience")
    source, target = cluster.owner(slot), other_master(cluster, slot)
    layer = layer_of(cluster, redeliver_after=0.5)

    async def take_later(end: Callable[[], object]) -> Event[bytes]:
        waiting = asyncio.ensure_future(layer.receive_job("patience"))
        caplog.clear()
        await becomes_true(lambda: caplog.text.count("Readers of patience have to wait") > 1)
        assert not waiting.done()
        end()
        with anyio.fail_after(30):
            return await waiting

    def agree() -> None:
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", source.ask("CLUSTER", "MYID"))
        tasks.start_soon(partial(channel.queues.put, "patience", b"1", **PLENTY))

    async with Channel(layer) as channel, anyio.create_task_group() as tasks:
        await channel.connected()
        # Each of two masters replies that the other one has it.
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
        assert (await take_later(agree)).message == b"1"
        # It is half way: of a job that is due again a part is here and a part there.
        await run_sync(cluster.begin_move, slot, target)
        source.ask("MIGRATE", "127.0.0.1", target.server.port, "{patience}|pending", 0, 5000)
        event = await take_later(lambda: cluster.move(slot, target))
        assert (event.message, event.deliveries) == (b"1", 2)
        assert event.ack_handle is not None
        await event.ack_handle.release()


async def test_what_is_pending_while_its_slot_moves_comes_again(cluster: brokers.Cluster) -> None:
    async with (
        Channel(layer_of(cluster, redeliver_after=1.5)) as one,
        Channel(layer_of(cluster, redeliver_after=1.5)) as two,
        one.subscribe("tasks", consumer_group="slow", ack="manual") as first,
        two.subscribe("tasks", consumer_group="slow", ack="manual") as second,
    ):
        await two.publish("tasks", "acknowledged late")
        await two.publish("tasks", "never")
        events = [await anext(first), await anext(first)]
        await move(cluster, "tasks")
        await events[0].ack()
        with anyio.fail_after(30):
            again = await anext(second)
        await again.ack()
        assert (again.message, again.deliveries) == ("never", 2)
        owner = cluster.owner(key_slot(b"tasks"))
        assert owner.ask("ZCARD", "{tasks}|pending of slow") == 0


async def test_jobs_of_a_killed_worker_while_their_queue_moves(cluster: brokers.Cluster, tmp_path: Path) -> None:
    url = brokers.with_streams(cluster.url)
    queue, count = f"asgi:q:{CHANNEL}", 400

    def at_owner(*command: str) -> Any:
        return cluster.owner(key_slot(queue.encode())).ask(*command)

    layer = AnyioChannelLayer(**config(url))
    with running(
        [sys.executable, "-m", "tests.brokers.redis.streams.job_worker", url, str(tmp_path)], tmp_path, 2
    ) as workers:
        await becomes_true(lambda: at_owner("PUBSUB", "SHARDNUMSUB", f"{{{queue}}}|messages")[1] == 2, 30)
        async with anyio.create_task_group() as tasks:
            for start in range(0, count, 100):
                tasks.start_soon(give, layer, range(start, start + 100))
            await becomes_true(lambda: len(workers.done()[0]) > 20, 30)
            await move(cluster, queue)
            workers.processes[0].kill()
            await move(cluster, queue)
        await becomes_true(lambda: len(set(workers.jobs())) == count, 30)
        await becomes_true(lambda: at_owner("ZCARD", f"{{{queue}}}|pending") == 0)
        done, everything = workers.done(), workers.jobs()
    await layer.close()
    twice = {number for number in everything if everything.count(number) > 1}
    assert sorted(set(everything)) == list(range(count))
    assert twice <= {done[0][-1]}, "only what a dead worker had pending"


# ---- connections that break ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_killed_connections(cluster: brokers.Cluster, kind: str) -> None:
    async with flows(lambda: layer_of(cluster), one_at_each(cluster)) as all_going:
        for server in cluster.masters:
            server.ask("CLIENT", "KILL", "TYPE", kind)
            await all_go_on(all_going, 20)
    for going in all_going.values():
        assert nothing_missed(going)


async def test_all_masters_are_killed_and_restarted_with_their_logs() -> None:
    with brokers.cluster("redis", options=brokers.WITH_AOF) as cluster:
        async with flows(lambda: layer_of(cluster), one_at_each(cluster), publish_timeout=20.0) as all_going:
            for server in cluster.masters:
                await run_sync(server.server.kill)
            for server in cluster.masters:
                await run_sync(server.server.start)
            await all_go_on(all_going, seconds=30)
    for going in all_going.values():
        assert nothing_missed(going)


# ---- masters that are replaced ---------------------------------------------------------------------------------------


async def returns(master: brokers.Redis) -> None:
    """As a replica of its successor."""
    await run_sync(master.server.start)
    await becomes_true(lambda: master.ask("ROLE")[3:4] == ["connected"])


async def test_a_master_dies_and_its_replica_takes_over(replicated: brokers.Cluster) -> None:
    groups = one_at_each(replicated)
    master = replicated.owner(key_slot(GROUP.encode()))
    await successor_of(replicated, master)
    async with flows(lambda: layer_of(replicated), groups, publish_timeout=20.0) as all_going:
        await killed(master)
        await all_go_on(all_going, seconds=30)
    assert all_came_or_a_gap_was_reported(all_going.pop(GROUP))
    for going in all_going.values():
        assert nothing_missed(going)
    await returns(master)


async def test_a_replica_that_was_behind_takes_over(replicated: brokers.Cluster) -> None:
    """What it has not got is a gap for the groups of that master alone."""
    groups = one_at_each(replicated)
    master = replicated.owner(key_slot(GROUP.encode()))
    replica = await successor_of(replicated, master)
    async with flows(lambda: layer_of(replicated), groups, publish_timeout=20.0) as all_going:
        replica.server.freeze()
        master.ask("CLIENT", "KILL", "TYPE", "replica")
        await all_going[GROUP].go_on()
        await killed(master)
        replica.server.thaw()
        await all_go_on(all_going, seconds=30)
    assert all_going.pop(GROUP).missed == [GROUP] * 2
    for going in all_going.values():
        assert nothing_missed(going)
    await returns(master)


async def test_a_planned_failover_to_a_replica(replicated: brokers.Cluster) -> None:
    async with flow(lambda: layer_of(replicated), publish_timeout=20.0) as going:
        master = await hand_over(replicated, GROUP)
        await going.go_on(seconds=20)
    assert nothing_missed(going)
    assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
    await becomes_true(lambda: master.ask("ROLE")[3:4] == ["connected"])
