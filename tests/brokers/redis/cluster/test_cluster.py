"""Redis Cluster: groups spread over the masters, slots that move, masters that are replaced."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
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
    ListenerClosed,
    NotSupported,
    RedisPubSubChannelLayer,
)
from django_anyio_channels.brokers.redis.cluster import routing
from django_anyio_channels.brokers.redis.cluster.discovery import ClusterSeeds
from django_anyio_channels.brokers.redis.keys import (
    bound_groups_key,
    companion_key,
    hash_tag_for_slot,
    key_slot,
    queue_of_bound_groups,
)
from django_anyio_channels.core.exceptions import SubscriptionRefused
from tests.brokers.redis.clusters import calls, hand_over, killed, move, other_master, shard_channels, successor_of
from tests.brokers.redis.conftest import Connect, becomes_true, publish
from tests.brokers.redis.flow import GROUP, flow
from tests.brokers.redis.test_workers import each_was_done_once, working
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import free_port

pytestmark = pytest.mark.anyio

GROUPS = [f"room-{number}" for number in range(60)]
PLENTY: dict[str, Any] = {"capacity": 10_000, "expiry": 60.0}


@pytest.fixture
def growing() -> Iterator[brokers.Cluster]:
    """Three masters, the last of which has no slots yet. The test may do what it likes."""
    with brokers.cluster(serving=2) as made:
        yield made


def layer_of(cluster: brokers.Cluster) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(cluster.url, probe_interval=1.0)


def connections(cluster: brokers.Cluster) -> list[int]:
    """How many clients each master has besides who asks."""
    return [len(server.ask("CLIENT LIST")) - 1 for server in cluster.masters]


async def halfway(cluster: brokers.Cluster, queue: str) -> brokers.Redis:
    """Begin to move a queue to another master, which is returned: its list is there, what belongs to it nowhere yet."""
    slot = key_slot(queue.encode())
    target = other_master(cluster, slot)
    source = await run_sync(cluster.begin_move, slot, target)
    source.ask("MIGRATE", "127.0.0.1", target.server.port, queue, 0, 5000)
    return target


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def works(channel: Channel) -> None:
    """Messages of some groups go round, and jobs."""
    groups = GROUPS[:12]
    with anyio.fail_after(30):
        async with channel.subscribe(*groups) as subscriber:
            for group in groups:
                assert (await channel.publish(group, group)).receivers == 1
            assert sorted([(await anext(subscriber)).message for _ in groups]) == sorted(groups)
        for number in range(12):
            await channel.queues.put(f"jobs {number}", b"%d" % number, **PLENTY)
            assert await channel.queues.take(f"jobs {number}") == b"%d" % number


# ---- slots -----------------------------------------------------------------------------------------------------------

NAMES = ["asgi:g:room", "{a}b", "a{b}c", "{}x", "a}b", "a}b{c", "{{b}}", "{a}", "a{b", "naïve Ω", ""]


@pytest.mark.parametrize("name", NAMES)
def test_slots_are_those_of_the_server(cluster: brokers.Cluster, name: str) -> None:
    slot = cluster.masters[0].ask("CLUSTER", "KEYSLOT", name)
    assert key_slot(name.encode()) == slot
    assert key_slot(companion_key(name.encode(), "messages")) == slot


def test_what_is_beside_one_name_is_beside_no_other() -> None:
    names = [name.encode() for name in NAMES]
    names += [companion_key(name, what)[: -len(what) - 1] for name in names for what in ("groups", "")]
    names += [name + b"|~" for name in names]
    assert len({companion_key(name, "groups") for name in names}) == len(set(names))
    for name in names:
        assert queue_of_bound_groups(bound_groups_key(name)) == name
        assert queue_of_bound_groups(name) is None
        assert queue_of_bound_groups(companion_key(name, "waiting")) is None


def test_tags_lead_to_their_slots() -> None:
    for slot in (0, 1, 5461, 16383):
        assert key_slot(b"anything{%b}" % hash_tag_for_slot(slot)) == slot


@pytest.mark.parametrize("name", NAMES[:-1])
async def test_queues_of_any_name(cluster: brokers.Cluster, connect: Connect, name: str) -> None:
    reader, sender = await connect(cluster.url), await connect(cluster.url)
    queue = f"{name}:jobs"
    await sender.bind("room", queue, lifetime=60, **PLENTY)
    with anyio.fail_after(30):
        taking = asyncio.ensure_future(reader.take(queue))
        owner = cluster.owner(key_slot(queue.encode()))
        await becomes_true(lambda: owner.ask("LLEN", companion_key(queue.encode(), "waiting").decode()))
        await publish(sender, "room", b"1")
        assert await taking == b"1"
    await sender.put(queue, b"2", **PLENTY)
    await sender.purge(name)
    assert [server.ask("KEYS", "*jobs*|groups") for server in cluster.masters] == [[], [], []]
    await sender.put(queue, b"3", **PLENTY)
    with anyio.fail_after(30):
        assert await reader.take(queue) == b"3"


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_addresses() -> None:
    address = ClusterSeeds("rediss+cluster://user:secret@a:7000,[::1]:7001,b?ssl_cert_reqs=none", {}, frozenset())
    assert str(address) == "rediss+cluster://a:7000,[::1]:7001,b"
    node = address.address_of(("c", 7002))
    assert str(node) == "rediss://c:7002/0"
    assert node.options["username"] == "user"
    assert node.options["password"] == "secret"
    assert node.options["ssl_cert_reqs"] == "none"


@pytest.mark.parametrize(("url", "options"), [("/3", {}), ("?db=3", {}), ("", {"db": 3})])
def test_a_cluster_has_one_database(url: str, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"'redis\+cluster://a:7000.*' names a database") as caught:
        RedisPubSubChannelLayer(f"redis+cluster://:secret@a:7000{url}", **options)
    assert "secret" not in str(caught.value)
    assert RedisPubSubChannelLayer("redis+cluster://a:7000/0").address == "redis+cluster://a:7000"


async def test_a_server_that_is_no_cluster(server: brokers.Redis) -> None:
    layer = RedisPubSubChannelLayer(server.url.replace("redis://", "redis+cluster://"))
    with pytest.raises(ListenerClosed, match=rf"cluster support disabled.*write {server.url}/0 for it"):
        await layer.connect()


async def test_a_cluster_that_is_down_at_the_start() -> None:
    first, second = free_port(), free_port()
    layer = RedisPubSubChannelLayer(f"redis+cluster://127.0.0.1:{first},127.0.0.1:{second}")
    async with Channel(layer, publish_timeout=3.0) as channel:
        with pytest.raises(ListenerClosed, match=rf"127\.0\.0\.1:{first},127\.0\.0\.1:{second}.*Check that") as caught:
            await channel.publish("room", 1)
    assert "no node leads to the masters; the last one: redis://127.0.0.1:" in str(caught.value)


async def test_any_node_leads_to_all_masters(cluster: brokers.Cluster) -> None:
    living = cluster.masters[2].server.port
    layer = RedisPubSubChannelLayer(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{living}")
    async with Channel(layer) as channel:
        await works(channel)


async def test_a_node_that_does_not_answer_is_not_waited_for(cluster: brokers.Cluster) -> None:
    mute = brokers.plain("valkey")
    with brokers.running(mute), mute.server.frozen():
        ports = mute.server.port, cluster.masters[1].server.port
        layer = RedisPubSubChannelLayer(
            f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", socket_connect_timeout=60
        )
        with anyio.fail_after(30):
            await layer.connect()
        await layer.disconnect()
        url = f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{free_port()}"
        layer = RedisPubSubChannelLayer(url, socket_connect_timeout=1.0)
        with pytest.raises(
            ListenerClosed, match=rf"the last one: redis://127.0.0.1:{ports[0]}/0: no answer within 1 s"
        ):
            await layer.connect()


async def test_slots_that_nobody_serves() -> None:
    lonely = brokers.plain("valkey", "--cluster-enabled", "yes")
    with brokers.running(lonely):
        lonely.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await becomes_true(lambda: lonely.ask("CLUSTER INFO")["cluster_state"] == "ok")
        layer = RedisPubSubChannelLayer(f"redis+cluster://127.0.0.1:{lonely.server.port}")
        await layer.connect()
        slots = [key_slot(name) for name in (b"jobs", b"work")]
        lonely.ask("CLUSTER", "DELSLOTS", *slots)
        with pytest.raises(ListenerClosed, match="CLUSTERDOWN"):
            await layer.put("jobs", b"x", **PLENTY)
        with pytest.raises(ListenerClosed, match="CLUSTERDOWN"):
            await layer.next_published()
        with pytest.raises(ListenerClosed, match=r"the cluster is down.*start it, or wait until a replica takes over"):
            await layer.connect()
        lonely.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        await becomes_true(lambda: lonely.ask("CLUSTER INFO")["cluster_state"] == "ok")
        with pytest.raises(ListenerClosed, match=r"2 slots of the cluster are served by nobody.*CLUSTER ADDSLOTS"):
            await layer.connect()
        lonely.ask("CLUSTER", "ADDSLOTS", *slots)
        await layer.connect()
        await layer.put("jobs", b"x", **PLENTY)
        await layer.disconnect()


async def test_a_master_that_goes_while_another_one_is_slow_to_come(cluster: brokers.Cluster) -> None:
    layer = layer_of(cluster)
    before = connections(cluster)
    cluster.masters[0].ask("CONFIG", "RESETSTAT")
    with anyio.fail_after(30):
        with cluster.masters[2].server.frozen():
            connecting = asyncio.ensure_future(layer.connect())
            # Asked for its role the second time, it is connected.
            await becomes_true(lambda: calls(cluster.masters[0], "role") > 1)
            cluster.masters[0].ask("CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(ListenerClosed, match="went away while the other masters were connected"):
            await connecting
    await becomes_true(lambda: connections(cluster) == before)


async def test_one_of_several_masters_is_no_server_alone(cluster: brokers.Cluster, connect: Connect) -> None:
    layer = await connect(cluster.masters[0].url)
    elsewhere = next(name for name in GROUPS if cluster.owner(key_slot(name.encode())) is not cluster.masters[0])
    with pytest.raises(ChannelLayerError, match=r"refuses: MOVED.*write redis\+cluster:// for it"):
        await layer.put(elsewhere, b"x", **PLENTY)


async def test_masters_that_do_not_tell_their_address(cluster: brokers.Cluster) -> None:
    """Behind some proxies only the ports differ."""
    for server in cluster.masters:
        server.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
    async with Channel(layer_of(cluster)) as channel:
        await works(channel)
        await move(cluster, GROUPS[0])
        await works(channel)
        assert channel.outages == 0
    for server in cluster.masters:
        server.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


# ---- TLS and passwords -----------------------------------------------------------------------------------------------


async def test_tls_with_its_own_authority_and_a_password(protected: brokers.Cluster) -> None:
    async with flow(lambda: layer_of(protected)) as going:
        await works(going.publisher)
        slot = key_slot(GROUP.encode())
        target = other_master(protected, slot)
        await run_sync(protected.begin_move, slot, target)
        await run_sync(protected.end_move, slot, target)
        await going.go_on()
        assert going.publisher.outages == 0
    assert going.failed == []
    assert going.publisher.layer.address == protected.url.partition("?")[0].replace(":correct%20horse@", "")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("correct%20horse", "battery", "WRONGPASS.*Correct the user name and the password"),
        (":correct%20horse@", "", "NOAUTH.*Give a password"),
        ("ssl_ca_certs", "ssl_check_hostname=true&client_name", "CERTIFICATE_VERIFY_FAILED.*ssl_ca_certs"),
    ],
)
async def test_no_way_in(protected: brokers.Cluster, right: str, wrong: str, message: str) -> None:
    layer = RedisPubSubChannelLayer(protected.url.replace(right, wrong))
    with pytest.raises(ListenerClosed, match=message) as caught:
        await layer.connect()
    assert str(caught.value).startswith("rediss+cluster://127.0.0.1:")
    assert "horse" not in str(caught.value)
    assert "battery" not in str(caught.value)


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


# ---- slots that move -------------------------------------------------------------------------------------------------


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
            await run_sync(server.server.kill)
        for server in cluster.masters:
            await run_sync(server.server.start)
        await going.go_on(seconds=30)
    assert going.lost() == [set(), set()]
    assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
    assert len(going.gaps) == 2


# ---- masters that are replaced ---------------------------------------------------------------------------------------


async def frozen(server: brokers.Redis) -> None:
    server.server.freeze()


@pytest.mark.parametrize("happening", [killed, frozen])
async def test_a_master_dies_and_its_replica_takes_over(
    replicated: brokers.Cluster, happening: Callable[[brokers.Redis], Awaitable[None]]
) -> None:
    master = replicated.owner(key_slot(GROUP.encode()))
    async with flow(lambda: layer_of(replicated), publish_timeout=20.0) as going:
        await happening(master)
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
