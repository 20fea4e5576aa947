"""Presence in Redis: hashes that end, failovers, slots that move, and a process that is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.brokers.redis.keys import presence_key
from django_anyio_channels.core.capabilities import PresenceRecord
from tests.support.brokers import redis as brokers

from .clusters import move
from .conftest import Connect

pytestmark = pytest.mark.anyio

KEY = presence_key(b"room").decode()


async def holds(condition: Callable[[], Awaitable[bool]], seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_records_end_and_leave_no_key(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    await layer.put_presence([PresenceRecord("room", f"node.{part}", b"x") for part in range(2500)], 60.0)
    assert 55_000 < server.ask("PTTL", KEY) <= 60_000
    await layer.put_presence([PresenceRecord("room", "short", b"\x00\xff")], 0.05)
    assert server.ask("PTTL", KEY) > 1000  # the others last longer

    async def ended() -> bool:
        return "short" not in await layer.read_presence("room")

    await holds(ended)
    assert server.ask("HLEN", KEY) == 2500  # and is deleted by who reads
    await layer.put_presence([PresenceRecord("room", f"node.{part}", b"") for part in range(2500)], 60.0)
    assert server.ask("EXISTS", KEY) == 0
    assert await layer.read_presence("room") == {}


async def test_what_other_programs_have_written_is_in_nobodys_way(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    server.ask("SET", KEY, "a string")
    assert await layer.read_presence("room") == {}
    server.ask("SET", KEY, "a string")
    await layer.put_presence([PresenceRecord("room", "node", b"x")], 60.0)
    server.ask("HSET", KEY, "forged", "0x1p999", "inf", "inf", "\xe9", "9999999999999y")
    assert await layer.read_presence("room") == {"node": b"x", "\N{REPLACEMENT CHARACTER}" * 2: b"y"}
    assert server.ask("HLEN", KEY) == 2
    await layer.purge("room")
    assert server.ask("EXISTS", KEY) == 0


PROGRAM = """
import asyncio
from django_anyio_channels import AnyioChannelLayer

layer = AnyioChannelLayer(url={url!r})

async def main():
    for number in range(40):
        await layer.group_add("room", await layer.new_channel(), member=str(number))
    assert await layer.group_count("room")
    print("joined", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@contextmanager
def elsewhere(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose members are in the group."""
    program = subprocess.Popen([sys.executable, "-c", PROGRAM.format(url=url)], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "joined\n"
        yield program
    finally:
        program.kill()
        program.communicate()


async def test_the_members_of_a_killed_process_leave_within_15_seconds() -> None:
    """With the settings that all have. The time is what is promised."""
    server = brokers.plain("valkey")
    with brokers.running(server), elsewhere(server.url) as program:
        layer = AnyioChannelLayer(url=server.url)
        channel = await layer.new_channel()
        await layer.group_add("room", channel, watch=True)
        assert len(await layer.group_members("room")) == 40
        program.kill()
        message: dict[str, Any] = {"left": []}
        async with asyncio.timeout(15):
            while not message["left"]:
                message = await layer.receive(channel)
        assert len(message["left"]) == 40
        assert await layer.group_members("room") == {}
        await layer.close()


class Flow:
    """Two processes whose members come and go, until told to stop."""

    def __init__(self, url: str, group: str) -> None:
        self.group = group
        self.layers = [
            AnyioChannelLayer(url=url, options={"probe_interval": 1.0}, presence_grace=0, publish_timeout=20)
            for _ in range(2)
        ]
        self.here: dict[str, str] = {}
        """The channel of each member that has joined and not left."""
        self.cycles = 0
        self.is_over = False

    async def run(self, layer: AnyioChannelLayer, name: str) -> None:
        while not self.is_over:
            for number in range(7):
                member = f"{name} {number}"
                if member in self.here:
                    await layer.group_discard(self.group, self.here.pop(member))
                elif (number + self.cycles) % 3:
                    channel = await layer.new_channel()
                    await layer.group_add(self.group, channel, member=member)
                    self.here[member] = channel
            self.cycles += 1
            await asyncio.sleep(0.005)

    async def during(self, event: Callable[[], Awaitable[object]]) -> None:
        """Let it flow before, during and after an event; then both processes know the same, and nobody else."""
        flowing = [asyncio.ensure_future(self.run(layer, name)) for layer, name in zip(self.layers, "ab", strict=True)]

        async def more(cycles: int) -> None:
            goal = self.cycles + cycles
            async with asyncio.timeout(60):
                while self.cycles < goal:
                    await asyncio.sleep(0.01)
                    for each in flowing:
                        if each.done():
                            each.result()

        await more(20)
        await event()
        await more(20)
        self.is_over = True
        await asyncio.gather(*flowing)

        async def known(layer: AnyioChannelLayer) -> bool:
            return set(await layer.group_members(self.group)) == set(self.here)

        other = AnyioChannelLayer(url=self.url_of_first, options={"probe_interval": 1.0})
        for layer in (*self.layers, other):
            await holds(lambda layer=layer: known(layer))  # type: ignore[misc]
        for layer in (*self.layers, other):
            await layer.close()

    @property
    def url_of_first(self) -> str:
        return str(self.layers[0]._dispatcher.nodes[0].channel.layer.address)


async def test_slots_that_move(cluster: brokers.Cluster) -> None:
    flow = Flow(cluster.url, "room")

    async def moves() -> None:
        for name in ("asgi:p:room", "asgi:n:room", "asgi:c:present", "asgi:g:room", "asgi:p:room"):
            await move(cluster, name)

    await flow.during(moves)


async def test_a_failover_by_sentinels() -> None:
    with brokers.sentinel_set() as sentinels:
        master = sentinels.master()
        flow = Flow(sentinels.url, "room")

        async def kill() -> None:
            await run_sync(master.server.kill)
            await run_sync(sentinels.wait_for_other_master, master)

        await flow.during(kill)
