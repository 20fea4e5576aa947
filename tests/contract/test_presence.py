"""Who is in a group: the same for all processes, in one order, over outages and kills."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.presence import timing

from .kinds import Broker, MortalBroker
from .processes import Processes, soon

pytestmark = pytest.mark.anyio

GRACE = 0.3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nodes miss each other ten times sooner."""
    monkeypatch.setattr(timing, "INTERVAL", 0.2)
    monkeypatch.setattr(timing, "LIFETIME", 1.0)


class Watcher:
    """A channel that watches a group, and what it was told."""

    def __init__(self, layer: AnyioChannelLayer, channel: str, names: set[str]) -> None:
        self.layer = layer
        self.channel = channel
        self.names = names
        """Who is here, as far as it knows."""
        self.told: list[tuple[str, str]] = []
        self.messages = 0

    async def read(self) -> None:
        """Take in one message."""
        message = await self.layer.receive(self.channel)
        assert message["type"] == "presence.changed"
        self.messages += 1
        self.told += [("joined", member) for member in message["joined"]]
        self.told += [("left", member) for member in message["left"]]
        for member in message["joined"]:
            self.names.add(member)
        for member in message["left"]:
            self.names.discard(member)

    async def until_here(self, *names: str) -> None:
        """Read until these members and no others are here."""

        async def read() -> None:
            while self.names != set(names):
                await self.read()

        await soon(read())


async def watch(layer: AnyioChannelLayer, group: str) -> Watcher:
    channel = await layer.new_channel()
    await layer.group_add(group, channel, watch=True)
    return Watcher(layer, channel, set(await layer.group_members(group)))


async def add(layer: AnyioChannelLayer, group: str, member: str, **meta: Any) -> str:
    channel = await layer.new_channel()
    await layer.group_add(group, channel, member=member, meta=meta or None)
    return channel


async def holds(condition: Callable[[], Any]) -> None:
    """Ask until the answer is true."""

    async def ask() -> None:
        while not await condition():
            await asyncio.sleep(0.01)

    await soon(ask())


async def test_members_of_all_processes(processes: Processes) -> None:
    one, two, other = (processes.new(presence_grace=GRACE) for _ in range(3))
    assert await other.group_members("room.7") == {}
    assert await other.group_count("room.7") == (0, 0)
    watcher = await watch(one, "room.7")
    first = await add(one, "room.7", "42", name="Ana")
    assert (await one.group_members("room.7"))["42"].metas == [{"name": "Ana"}]  # what it did itself is seen at once
    await add(two, "room.7", "42", name="Ana", window=2)
    await add(two, "room.7", "7")
    await two.group_count("room.7")
    for layer in (one, two, other):

        async def complete(layer: AnyioChannelLayer = layer) -> bool:
            return await layer.group_count("room.7") == (3, 2)

        await holds(complete)
        members = await layer.group_members("room.7")
        assert sorted(members) == ["42", "7"]
        assert sorted(members["42"].metas, key=len) == [{"name": "Ana"}, {"name": "Ana", "window": 2}]
        assert members["7"].metas == [{}]
        assert members["42"].since <= members["7"].since
        assert await asyncio.to_thread(layer.group_members_sync, "room.7") == members
        assert await asyncio.to_thread(layer.group_count_sync, "room.7") == (3, 2)
    await watcher.until_here("42", "7")
    assert watcher.told == [("joined", "42"), ("joined", "7")]
    # Another process may change what a channel says, and have it leave.
    await other.group_add("room.7", first, member="42", meta={"name": "Anna"})
    await other.group_discard("room.7", first)
    await one.group_discard("room.7", first)

    async def left() -> bool:
        return await other.group_count("room.7") == (2, 2)

    await holds(left)
    assert (await other.group_members("room.7"))["42"].metas == [{"name": "Ana", "window": 2}]
    assert ("left", "42") not in watcher.told  # the other window is still there


async def test_a_member_leaves_once_the_grace_period_is_over(processes: Processes) -> None:
    one, two = processes.new(presence_grace=GRACE), processes.new(presence_grace=GRACE)
    watcher = await watch(two, "room.7")
    window = await add(one, "room.7", "42")
    await watcher.until_here("42")
    for layer in (one, two, one):  # a reload, also one that another process serves
        reloaded = await add(layer, "room.7", "42")
        await layer.group_members("room.7")
        await (two if layer is one else one).group_discard("room.7", window)
        window = reloaded
    await one.group_discard("room.7", window)
    assert list(await one.group_members("room.7")) == ["42"]  # for the grace period
    await add(one, "room.7", "7")
    await watcher.until_here("7")
    assert watcher.told == [("joined", "42"), ("joined", "7"), ("left", "42")]

    async def gone() -> bool:
        return await one.group_count("room.7") == (1, 1)

    await holds(gone)


async def test_all_are_told_in_one_order(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LIFETIME", 7.0)  # as it is: a slow machine gives up nobody
    layers = [processes.new(presence_grace=0, capacity=10_000) for _ in range(3)]
    watchers = [await watch(layer, "room.7") for layer in layers]
    generator = random.Random(7)

    async def come_and_go(layer: AnyioChannelLayer, number: int) -> None:
        for _ in range(30):
            channel = await add(layer, "room.7", str(generator.randrange(10)), number=number)
            if generator.random() < 0.3:
                await layer.group_members("room.7")
            await layer.group_discard("room.7", channel)

    await asyncio.gather(*(come_and_go(layer, number) for number, layer in enumerate(layers)))
    last = await add(layers[0], "room.7", "last")
    for watcher in watchers:
        await watcher.until_here("last")
    assert watchers[0].told == watchers[1].told == watchers[2].told
    assert len(watchers[0].told) > 10
    for layer in layers:
        assert list(await layer.group_members("room.7")) == ["last"]
    await layers[0].group_discard("room.7", last)


async def test_an_outage_flashes_nobody(
    mortal_django_broker: MortalBroker, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "LIFETIME", 7.0)  # as it is: a cluster takes its time
    one, two = (processes.new(presence_grace=GRACE, capacity=10_000) for _ in range(2))
    watcher = await watch(two, "room.7")
    before = [await add(one, "room.7", f"before {number}") for number in range(300)]
    await add(two, "room.7", "two")
    everybody = {f"before {number}" for number in range(300)} | {"two"}
    await watcher.until_here(*everybody)
    watcher.told.clear()
    watcher.messages = 0
    await asyncio.to_thread(mortal_django_broker.kill)
    # They wait for the broker: they are to be in the group when they are told to be.
    joining = asyncio.gather(*(add(one, "room.7", f"during {number}") for number in range(300)))
    for channel in before[:100]:
        await one.group_discard("room.7", channel)
    await asyncio.to_thread(mortal_django_broker.start)
    await soon(joining)
    everybody -= {f"before {number}" for number in range(100)}
    everybody |= {f"during {number}" for number in range(300)}
    await watcher.until_here(*everybody)
    assert len(watcher.told) == 400, "nobody left who is there, and nobody came twice"
    assert watcher.messages < 10
    other = processes.new()

    async def complete() -> bool:
        return set(await other.group_members("room.7")) == everybody

    await holds(complete)
    assert set(await one.group_members("room.7")) == everybody


PROGRAM = """
import asyncio, sys
from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.presence import timing

timing.INTERVAL, timing.LIFETIME = 0.2, 1.0
layer = AnyioChannelLayer({arguments})

async def main():
    for number in range(40):
        await layer.group_add("room.7", await layer.new_channel(), member=f"{{number}} elsewhere")
    await layer.group_add("room.7", await layer.new_channel(), member="both")
    assert await layer.group_count("room.7")
    print("joined", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@contextmanager
def elsewhere(processes: Processes, **changes: Any) -> Iterator[subprocess.Popen[str]]:
    """A process whose members are in the group."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in {**processes.config, **changes}.items())
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(arguments=arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "joined\n"
        yield program
    finally:
        program.kill()
        program.communicate()


async def test_the_members_of_a_killed_process_leave(mortal_django_broker: MortalBroker, processes: Processes) -> None:
    one, two = processes.new(presence_grace=GRACE), processes.new(presence_grace=GRACE)
    await add(one, "room.7", "both")
    watchers = [await watch(layer, "room.7") for layer in (one, two)]
    with elsewhere(processes, presence_grace=GRACE) as program:
        for watcher in watchers:
            await watcher.until_here(*(f"{number} elsewhere" for number in range(40)), "both")
        program.kill()
        for watcher in watchers:
            await watcher.until_here("both")
    assert watchers[0].told[-40:] == watchers[1].told[-40:]
    other = processes.new()

    async def complete() -> bool:
        return await other.group_count("room.7") == (1, 1)

    await holds(complete)


async def test_a_process_that_ends_leaves_its_members_the_grace_period(
    mortal_django_broker: MortalBroker, distinct_broker: Broker, processes: Processes
) -> None:
    one = processes.new(presence_grace=GRACE)
    watcher = await watch(one, "room.7")
    with elsewhere(processes, presence_grace=2.5) as program:
        await watcher.until_here(*(f"{number} elsewhere" for number in range(40)), "both")
        program.terminate()
        await asyncio.to_thread(program.wait, 20)
        assert len(await one.group_members("room.7")) == 41
        await add(one, "room.7", "both")  # its browser has come to another process
        await watcher.until_here("both")
    assert ("left", "both") not in watcher.told
