"""What happens to a server while numbered messages flow: nobody's reading ends, and what was accepted arrives."""

from __future__ import annotations

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    BaseChannelLayer,
    Channel,
    ChannelLayerError,
    DeliveryUnknown,
    ListenerClosed,
    RedisPubSubChannelLayer,
)
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import free_port, wait_until
from tests.support.flow import Flow, flow

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio


def layer_of(server: brokers.Redis, **options: object) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(server.url, **{"probe_interval": 1.0, **options})  # type: ignore[arg-type]


def only_unknown(going: Flow) -> bool:
    """Whether the only publishes that raised are those that were on their way."""
    return all(isinstance(error, DeliveryUnknown) for _, error in going.failed)


async def test_killed_and_restarted_it_loses_nothing_that_publish_returned_for(own_server: brokers.Redis) -> None:
    async with flow(lambda: layer_of(own_server), readers=3) as going:
        for _ in range(3):
            await going.restart(own_server)
    assert going.lost() == [set()] * 3
    assert only_unknown(going)
    assert len(going.gaps) == 9


async def test_a_node_waits_for_the_others_where_the_server_counts_them_wrongly(own_server: brokers.Redis) -> None:
    """Valkey 9.1 does, where eight subscribe to one channel."""
    async with flow(lambda: layer_of(own_server), readers=7) as going:
        for _ in range(3):
            await going.restart(own_server)
    assert going.lost() == [set()] * 7


async def test_publishing_waits_until_every_node_has_all_its_groups_again(own_server: brokers.Redis) -> None:
    groups = [f"group {number}" for number in range(200)]
    async with Channel(layer_of(own_server)) as reader, Channel(layer_of(own_server)) as publisher:
        async with reader.subscribe(*groups, capacity=1000) as subscriber:
            await publisher.publish(groups[0], "before")
            await run_sync(own_server.server.restart)
            for group in reversed(groups):
                while True:
                    try:
                        await publisher.publish(group, "after")
                        break
                    except DeliveryUnknown:
                        continue  # the first one may meet the end of the old link
            with anyio.fail_after(30):
                got = [await anext(subscriber) for _ in range(201)]
    assert [event.group for event in got if event.message == "after"] == groups[::-1]


async def test_a_node_that_wants_nothing_back_is_counted_all_the_same(server: brokers.Redis, connect: Connect) -> None:
    def nodes() -> int:
        return int(server.ask("PUBSUB NUMSUB", "anyio-channels:nodes")[0][1])

    layer = await connect(server.url, probe_interval=0.4)
    await layer.subscribe("room")
    await layer.subscribe("other")
    assert nodes() == 1
    await layer.connect()
    assert nodes() == 0, "it may still subscribe to what it had"
    await layer.subscribe("other")
    await becomes_true(lambda: nodes() == 1)


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_killed_connections(own_server: brokers.Redis, kind: str) -> None:
    async with flow(lambda: layer_of(own_server)) as going:
        for _ in range(3):
            own_server.ask("CLIENT", "KILL", "TYPE", kind)
            await going.go_on()
    # Between the death of a reader's connection and that of the publisher's own, nobody can know; the gap is told.
    assert all(len(lost) <= 6 for lost in going.lost())
    assert only_unknown(going)
    assert len(going.gaps) == 6


async def test_a_frozen_server_is_noticed_by_a_probe(own_server: brokers.Redis) -> None:
    connects: list[BaseChannelLayer] = []

    class Watched(RedisPubSubChannelLayer):
        async def connect(self) -> None:
            connects.append(self)
            await super().connect()

    async with flow(lambda: Watched(own_server.url, probe_interval=1.0)) as going:
        own_server.server.freeze()
        await becomes_true(lambda: going.failed)
        assert "probe_interval" in str(going.failed[0][1])
        # Each node notices by itself: one that did not before the thaw would have no outage to tell of.
        await becomes_true(lambda: all(connects.count(layer) > 1 for layer in connects))
        own_server.server.thaw()
        await going.go_on()
    assert len(going.gaps) == 2


async def test_a_server_that_is_down_at_the_start(own_server: brokers.Redis) -> None:
    own_server.server.kill()
    async with Channel(layer_of(own_server), publish_timeout=3.0) as channel:
        with pytest.raises(ListenerClosed, match=rf"127\.0\.0\.1:{own_server.server.port}.*Check that the"):
            await channel.publish("room", 1)
        await run_sync(own_server.server.start)
        with anyio.fail_after(30):
            async with channel.subscribe("room") as subscriber:
                await channel.publish("room", 2)
                assert (await anext(subscriber)).message == 2


async def test_a_reader_that_the_server_cuts_off_comes_back(own_server: brokers.Redis) -> None:
    own_server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 2mb 1mb 1")
    async with flow(lambda: layer_of(own_server), readers=1) as going:
        with own_server.client() as loud:
            # Our event loop stands still meanwhile. How much it takes differs from server to server.
            wait_until(lambda: not loud.publish("numbers", b"x" * 1_000_000), "who reads nothing is cut off")
        # What the kernel held is read first, the end of the connection afterwards.
        await becomes_true(lambda: going.gaps)
        await going.go_on()
    assert len(going.gaps) == 1


async def test_too_many_clients(own_server: brokers.Redis) -> None:
    own_server.ask("CONFIG", "SET", "maxclients", "5")
    others = [own_server.client() for _ in range(4)]
    for other in others:
        other.ping()
    layer = layer_of(own_server)
    with pytest.raises(ListenerClosed, match=r"max number of clients reached. Raise the server's maxclients"):
        await layer.connect()
    async with Channel(layer, publish_timeout=10) as channel:
        for other in others:
            other.close()
        async with channel.subscribe("room") as subscriber:
            await channel.publish("room", 1)
            assert (await anext(subscriber)).message == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "NOAUTH.*Give a password"),
        ({"password": "wrong"}, "WRONGPASS.*Correct the user name and the password"),
    ],
)
async def test_wrong_password(own_server: brokers.Redis, options: dict[str, str], message: str) -> None:
    with own_server.client() as client:
        client.config_set("requirepass", "secret")
    with pytest.raises(ListenerClosed, match=message) as caught:
        await layer_of(own_server, **options).connect()
    assert "secret" not in str(caught.value)


async def test_a_password_where_none_is_set(server: brokers.Redis) -> None:
    with pytest.raises(ListenerClosed, match="Leave the password out"):
        await RedisPubSubChannelLayer(server.url, password="secret").connect()


async def test_a_replica_is_refused_and_a_demoted_master_given_up(own_server: brokers.Redis) -> None:
    master = brokers.plain("valkey")
    with brokers.running(master):
        layer = layer_of(own_server)
        async with Channel(layer) as channel, channel.subscribe("room") as subscriber:
            await channel.publish("room", 1)
            own_server.ask("REPLICAOF", "127.0.0.1", master.server.port)
            with pytest.raises(ListenerClosed):
                await channel.queues.put("jobs", b"x", capacity=10, expiry=60)
            with pytest.raises(ListenerClosed, match=r"is a read-only replica.*Name its master"):
                await layer_of(own_server).connect()
            own_server.ask("REPLICAOF", "NO", "ONE")
            await channel.publish("room", 2)
            assert [(await anext(subscriber)).message for _ in range(2)] == [1, 2]


async def test_a_master_that_is_demoted_while_messages_flow(own_server: brokers.Redis) -> None:
    """It would go on to accept what is published, and tell it to nobody who listens at its master."""
    master = brokers.plain("valkey")
    with brokers.running(master):
        async with flow(lambda: layer_of(own_server)) as going:
            own_server.ask("REPLICAOF", "127.0.0.1", master.server.port)
            await becomes_true(lambda: going.publisher.outages)
            # Each node notices by itself.
            await becomes_true(lambda: own_server.ask("PUBSUB NUMSUB", "numbers")[0][1] == 0)
            own_server.ask("REPLICAOF", "NO", "ONE")
            await going.go_on()
    assert all(going.gaps)
    assert len(going.gaps) == 2


async def test_no_room_for_those_who_come_back(own_server: brokers.Redis) -> None:
    async with flow(lambda: layer_of(own_server)) as going:
        with own_server.client() as admin:
            admin.config_set("maxclients", "2")
            brokers.cut_off(admin)
            await becomes_true(lambda: going.publisher.outages)
            await becomes_true(lambda: int(admin.info("clients")["connected_clients"]) >= 2)
            admin.config_set("maxclients", "100")
        await going.go_on()
    assert len(going.gaps) == 2


async def test_a_password_that_is_changed_and_changed_back(own_server: brokers.Redis) -> None:
    async with flow(lambda: layer_of(own_server)) as going:
        with own_server.client() as admin:
            admin.config_set("requirepass", "secret")
            brokers.cut_off(admin)
            await becomes_true(lambda: going.publisher.outages)
            admin.config_set("requirepass", "")
        await going.go_on()
    assert len(going.gaps) == 2


async def test_readers_of_queues_go_on_when_memory_is_used_up(own_server: brokers.Redis) -> None:
    async with Channel(layer_of(own_server)) as channel:
        for number in range(50):
            await channel.queues.put("jobs", b"%d" % number, capacity=100, expiry=60)
        own_server.ask("CONFIG", "SET", "maxmemory", "1")
        with anyio.fail_after(30):
            assert [int(await channel.queues.take("jobs")) for _ in range(50)] == list(range(50))
        with anyio.move_on_after(0.2):
            await channel.queues.take("jobs")
        own_server.ask("CONFIG", "SET", "maxmemory", "0")
        await channel.queues.put("jobs", b"last", capacity=100, expiry=60)
        with anyio.fail_after(30):
            assert await channel.queues.take("jobs") == b"last"


async def test_out_of_memory(own_server: brokers.Redis) -> None:
    async with flow(lambda: layer_of(own_server)) as going:
        own_server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(ChannelLayerError, match=r"OOM.*raise its maxmemory") as caught:
            await going.publisher.queues.put("jobs", b"x", capacity=10, expiry=60)
        assert not isinstance(caught.value, ListenerClosed)
        await going.go_on()
        own_server.ask("CONFIG", "SET", "maxmemory", "0")
        await going.publisher.queues.put("jobs", b"x", capacity=10, expiry=60)
    assert going.failed == []
    assert going.gaps == []


async def test_an_address_where_nobody_listens_is_named() -> None:
    port = free_port()
    layer = RedisPubSubChannelLayer(f"redis://user:secret@127.0.0.1:{port}/3")
    with pytest.raises(ListenerClosed, match=rf"^redis://127\.0\.0\.1:{port}/3: .*Check that the server runs"):
        await layer.connect()


async def test_what_is_no_redis_is_no_end_of_the_world() -> None:
    async def say_something_else(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, say_something_else)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(ListenerClosed, match="not Redis' protocol"):
            await RedisPubSubChannelLayer(f"redis://127.0.0.1:{port}").connect()
        tasks.cancel_scope.cancel()


async def test_jobs_survive_killed_connections(own_server: brokers.Redis) -> None:
    """An answer that is lost with its connection is asked for again: each job comes once."""
    got: list[int] = []
    sent: list[int] = []
    kills = 0

    async with Channel(layer_of(own_server)) as sender, Channel(layer_of(own_server)) as reader:

        async def send() -> None:
            number = 0
            # The last one is sent when all is well again.
            while kills < 5 or number < 200 or sent[-1] != number:
                number += 1
                try:
                    await sender.queues.put("jobs", b"%d" % number, capacity=10_000, expiry=60)
                except DeliveryUnknown:
                    continue
                sent.append(number)

        async def work() -> None:
            while True:
                got.append(int(await reader.queues.take("jobs")))

        async with anyio.create_task_group() as workers:
            workers.start_soon(work)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                for kills in range(1, 6):  # noqa: B007 - send() looks at it
                    await anyio.sleep(0.05)
                    own_server.ask("CLIENT", "KILL", "TYPE", "normal")
            await becomes_true(lambda: sent[-1] in got)
            workers.cancel_scope.cancel()
    assert len(got) == len(set(got)), "nothing twice"
    assert set(sent) <= set(got), "nothing lost"
