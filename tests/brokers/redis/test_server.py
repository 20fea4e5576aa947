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
PROBES_FOR_A_ROLE_CHECK = 7
"""At most: there are 20 probes in twelve intervals, in which the role is checked three times."""
ASKED_BY_TESTS = {"info", "client", "config", "hello", "cluster"}
LIMITED = ["ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&room"]


def commands(server: brokers.Redis) -> dict[str, int]:
    """How often each command was called since ``CONFIG RESETSTAT``, without those by which the test asks."""
    statistics = server.ask("INFO", "commandstats")
    called = {name.removeprefix("cmdstat_"): each["calls"] for name, each in statistics.items()}
    return {name: calls for name, calls in called.items() if name.partition("|")[0] not in ASKED_BY_TESTS}


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
    layer = await connect(server.url, scope="", probe_interval=PROBE_INTERVAL)
    await layer.subscribe("room")
    await becomes_true(lambda: not layer.require_session().peers.may_be_bound)
    await layer.publish("room", b"the count of the nodes has come")
    await becomes_true(lambda: calls(server, "role") > 0)
    server.ask("CONFIG", "RESETSTAT")
    await becomes_true(lambda: calls(server, "role") > 1)
    sent = commands(server)
    assert sent.keys() == {"publish", "role"}
    assert sent["publish"] <= PROBES_FOR_A_ROLE_CHECK * (sent["role"] + 1)
    assert (await layer.publish("room", b"x")).receivers == 1


async def test_an_idle_node_of_a_cluster_sends_no_more_to_each_master(
    cluster: brokers.Cluster, connect: Connect
) -> None:
    layer = await connect(cluster.url, scope="", probe_interval=PROBE_INTERVAL)
    await becomes_true(lambda: not layer.require_session().peers.may_be_bound)
    for number in range(30):
        await layer.publish(f"room {number}", b"the count of the nodes has come")
    for master in cluster.masters:
        await becomes_true(lambda master=master: calls(master, "role") > 0)  # type: ignore[misc]
        master.ask("CONFIG", "RESETSTAT")
        await becomes_true(lambda master=master: calls(master, "role") > 1)  # type: ignore[misc]
        sent = commands(master)
        assert sent.keys() == {"spublish", "role"}
        assert sent["spublish"] <= PROBES_FOR_A_ROLE_CHECK * (sent["role"] + 1)


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
