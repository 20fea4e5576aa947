"""What the two connections to a server send while a node is idle, and what the probes notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from django_anyio_channels import ListenerClosed
from tests.support.brokers import redis as brokers

from .clusters import calls
from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio

PROBE_INTERVAL = 0.5
LIMITED = ["ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&room"]


def executed(server: brokers.Redis) -> int:
    """How many commands the server has executed since ``CONFIG RESETSTAT``, without those that ask for it."""
    statistics = server.ask("INFO", "commandstats")
    ours = [name for name in statistics if not name.startswith(("cmdstat_info", "cmdstat_client", "cmdstat_config"))]
    cluster = ("cmdstat_cluster", "cmdstat_hello", "cmdstat_ping")
    return sum(statistics[name]["calls"] for name in ours if not name.startswith(cluster))


class Proxy:
    """Passes on what goes to a server and comes from it, until a connection is muted."""

    def __init__(self, server: brokers.Redis) -> None:
        self.muted: set[int] = set()
        self.url = ""
        self._port = server.server.port
        self._connections = 0

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        number, self._connections = self._connections, self._connections + 1
        async with (
            stream,
            await anyio.connect_tcp("127.0.0.1", self._port) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._forward, number, server, stream)
            await self._forward(number, stream, server)
            tasks.cancel_scope.cancel()

    async def _forward(self, number: int, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream) -> None:
        try:
            async for data in source:
                if number not in self.muted:
                    await target.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass


@asynccontextmanager
async def proxy(server: brokers.Redis) -> AsyncIterator[Proxy]:
    made = Proxy(server)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, made.serve)
        made.url = f"redis://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        yield made
        tasks.cancel_scope.cancel()


async def test_an_idle_node_sends_two_commands_in_a_probe_interval(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url, probe_interval=PROBE_INTERVAL)
    await layer.subscribe("room")
    await becomes_true(lambda: not layer.require_session().peers.may_be_bound)
    await layer.publish("room", b"the count of the nodes has come")
    for number in (1, 2):  # the first time may be sooner, for what was published
        server.ask("CONFIG", "RESETSTAT")
        await becomes_true(lambda number=number: calls(server, "role") == number)  # type: ignore[misc]
    probes = calls(server, "publish")
    assert executed(server) == probes + 2
    assert 12 <= probes + 2 <= 16, "two in each of eight intervals"
    assert (await layer.publish("room", b"x")).receivers == 1


async def test_an_idle_node_of_a_cluster_sends_no_more_to_each_master(
    cluster: brokers.Cluster, connect: Connect
) -> None:
    layer = await connect(cluster.url, probe_interval=PROBE_INTERVAL)
    await becomes_true(lambda: not layer.require_session().peers.may_be_bound)
    for number in range(30):
        await layer.publish(f"room {number}", b"the count of the nodes has come")
    for number in (1, 2):
        for master in cluster.masters:
            master.ask("CONFIG", "RESETSTAT")
        await becomes_true(lambda number=number: all(calls(each, "role") >= number for each in cluster.masters))  # type: ignore[misc]
    for master in cluster.masters:
        assert executed(master) == calls(master, "spublish") + calls(master, "role")
        assert 12 <= executed(master) <= 8 * calls(master, "role")


@pytest.mark.parametrize("number", [0, 1])
async def test_either_connection_that_is_half_open_is_noticed(
    server: brokers.Redis, connect: Connect, number: int
) -> None:
    async with proxy(server) as between:
        layer = await connect(between.url, probe_interval=PROBE_INTERVAL)
        between.muted.add(number)
        with anyio.fail_after(30), pytest.raises(ListenerClosed, match=r"no answer for 0\.5 s \(probe_interval\)"):
            await layer.next_published()
        await layer.disconnect()


async def test_a_node_that_may_not_subscribe_to_its_probes_pings(server: brokers.Redis, connect: Connect) -> None:
    server.ask(*LIMITED)
    layer = await connect(server.url, username="limited", password="secret", probe_interval=PROBE_INTERVAL)
    await layer.subscribe("room")
    server.ask("CONFIG", "RESETSTAT")
    await becomes_true(lambda: calls(server, "ping") > 3)
    assert (await layer.publish("room", b"x")).receivers == 1


async def test_the_role_is_checked_while_a_node_publishes(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url, probe_interval=PROBE_INTERVAL)

    async def publish() -> None:
        while True:
            await layer.publish("room", b"x")
            await asyncio.sleep(0.01)

    server.ask("CONFIG", "RESETSTAT")
    publishing = asyncio.ensure_future(publish())
    await becomes_true(lambda: calls(server, "role") > 3)
    publishing.cancel()
    assert calls(server, "publish") < 100, "four times in an interval"
