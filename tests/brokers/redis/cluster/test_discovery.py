"""The way into a Redis Cluster: addresses, nodes that are down, TLS and passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import (
    Channel,
    ChannelLayerError,
    ListenerClosed,
    RedisPubSubChannelLayer,
)
from django_anyio_channels.brokers.redis.cluster.discovery import ClusterSeeds
from django_anyio_channels.brokers.redis.keys import (
    key_slot,
)
from tests.brokers.redis.clusters import (
    GROUPS,
    PLENTY,
    calls,
    connections,
    layer_of,
    move,
    other_master,
    works,
)
from tests.brokers.redis.conftest import Connect, becomes_true
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import free_port
from tests.support.flow import GROUP, flow

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def hidden() -> Iterator[brokers.Cluster]:
    """Masters that announce names which nobody can reach, as behind NAT or in containers."""
    options = ["--cluster-announce-hostname", "hidden.invalid", "--cluster-preferred-endpoint-type", "hostname"]
    with brokers.cluster(options=options) as made:
        yield made


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_addresses() -> None:
    address = ClusterSeeds(
        "rediss+cluster://user:secret@a:7000,[::1]:7001,b?ssl_cert_reqs=none", {}, RedisPubSubChannelLayer
    )
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


@pytest.mark.parametrize(
    "form", [dict, lambda remap: lambda node: node if node[0] == "127.0.0.1" else ("127.0.0.1", node[1])]
)
async def test_announced_addresses_are_mapped_to_reachable_ones(hidden: brokers.Cluster, form: Any) -> None:
    remap = {f"hidden.invalid:{each.server.port}": f"127.0.0.1:{each.server.port}" for each in hidden.masters}
    async with Channel(RedisPubSubChannelLayer(hidden.url, address_remap=form(remap))) as channel:
        await works(channel)
        async with channel.subscribe(GROUP) as subscriber:
            await move(hidden, GROUP)
            await channel.publish(GROUP, 1)
            with anyio.fail_after(30):
                assert (await anext(subscriber)).message == 1


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


async def test_the_names_of_all_nodes_are_checked(protected: brokers.Cluster) -> None:
    elsewhere = RedisPubSubChannelLayer(protected.url.replace("127.0.0.1", "127.0.0.2"))
    masters_elsewhere = RedisPubSubChannelLayer(protected.url, address_remap=lambda node: ("127.0.0.2", node[1]))
    for layer in (elsewhere, masters_elsewhere):
        with pytest.raises(ListenerClosed, match=r"mismatch.* Write the host as the certificate names it$"):
            await layer.connect()


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
