"""What happens to a server while numbered messages flow: each subscriber gets each once, or a gap where it can't."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, DeliveryUnknown, RedisStreamsChannelLayer
from django_anyio_channels.brokers.common.entries import HistoryEntry
from tests.support.brokers import redis as brokers
from tests.support.flow import GROUP, flow
from tests.support.paths import ROOT
from tests.support.programs import in_a_hurry

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_server() -> Iterator[brokers.Redis]:
    """A server that the test may disturb; that both kinds do the same, other tests show."""
    made = brokers.plain("redis")
    with brokers.running(made):
        yield made


def layer_of(server: brokers.Redis, history_length: int = 10_000) -> RedisStreamsChannelLayer:
    url = brokers.with_streams(server.url)
    return RedisStreamsChannelLayer(url, probe_interval=1.0, history_length=history_length)


async def test_killed_and_restarted_without_a_log(own_server: brokers.Redis) -> None:
    async with flow(lambda: layer_of(own_server)) as going:
        await run_sync(own_server.server.kill)
        await run_sync(own_server.server.start)
        await going.go_on()
    assert going.missed == [GROUP, GROUP], "each reader gets one gap"
    assert going.gaps == []


async def test_a_server_that_comes_back_without_its_last_messages(own_server: brokers.Redis) -> None:
    """As after a failover to a replica that was behind."""
    async with flow(lambda: layer_of(own_server)) as going:
        own_server.ask("SAVE")
        await going.go_on()
        await run_sync(own_server.server.kill)
        await run_sync(own_server.server.start)
        await going.go_on()
    assert going.missed == [GROUP, GROUP]


async def test_a_failover_that_loses_messages() -> None:
    """The replica stands still while messages are accepted, then takes over."""

    def make_layer(url: str) -> RedisStreamsChannelLayer:
        return RedisStreamsChannelLayer(brokers.with_streams(url), probe_interval=1.0)

    with brokers.sentinel_set() as sentinels:
        master = sentinels.master()
        [replica] = [each for each in sentinels.servers if each is not master]
        async with flow(lambda: make_layer(sentinels.url), publish_timeout=20) as going:
            replica.server.freeze()
            master.ask("CLIENT", "KILL", "TYPE", "replica")
            await going.go_on()
            await run_sync(master.server.kill)
            replica.server.thaw()
            await run_sync(sentinels.wait_for_other_master, master)
            await going.go_on(seconds=20)
    assert going.missed == [GROUP, GROUP]


async def test_a_reader_whose_event_loop_stands_still(own_server: brokers.Redis) -> None:
    """So long that the server gives it up."""
    own_server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 2mb 1mb 1")

    def publish_from_elsewhere() -> None:
        async def publish() -> None:
            async with Channel(layer_of(own_server)) as channel:
                for number in range(200):
                    await channel.publish("big", [number, b"x" * 100_000])

        anyio.run(publish)

    missed: list[str] = []
    async with (
        Channel(layer_of(own_server), on_missed=lambda group, _: missed.append(group)) as reader,
        reader.subscribe("big", capacity=1000) as subscriber,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(run_sync, publish_from_elsewhere)
        await anyio.sleep(0.1)
        time.sleep(3)  # noqa: ASYNC251 - this is what is tested
        with anyio.fail_after(30):
            numbers = [(await anext(subscriber)).message[0] for _ in range(200)]
    assert numbers == list(range(200))
    assert missed == []


async def listening(
    stack: AsyncExitStack, server: brokers.Redis, *, processes: int = 2, loops: int = 1, members: int
) -> list[BufferedByteReceiveStream]:
    """Start processes with so many members in each of so many event loops; return their outputs when all listen."""
    url = brokers.with_streams(server.url)
    command = [sys.executable, "-m", "tests.brokers.redis.streams.member", url, str(members), "0", str(loops)]
    outputs = []
    for _ in range(processes):
        process = await anyio.open_process(command, cwd=ROOT, env=in_a_hurry(), stderr=None)
        stack.push_async_callback(process.aclose)
        assert process.stdout is not None
        outputs.append(BufferedByteReceiveStream(process.stdout))
    for output in outputs:
        for _ in range(loops):
            assert await output.receive_until(b"\n", 100) == b"listening"
    return outputs


async def test_members_get_what_was_sent_to_a_server_that_had_lost_its_memory_before_they_were_back(
    own_server: brokers.Redis,
) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(100))
        outputs = await listening(stack, own_server, loops=2, members=4)
        await run_sync(own_server.server.kill)
        await run_sync(own_server.server.start)
        numbers = [*range(1, 20), 0]
        async with Channel(layer_of(own_server)) as channel:
            for number in numbers:
                await channel.publish(GROUP, number)
        for output in outputs:
            for _ in range(8):
                assert json.loads(await output.receive_until(b"\n", 1000)) == numbers


async def test_ten_thousand_messages_to_members_of_several_processes() -> None:
    """Through killed connections of every kind, a frozen and a killed server, each member gets each message once."""
    server = brokers.plain("redis", *brokers.WITH_AOF)
    count, members = 10_000, 3
    with brokers.running(server):
        async with AsyncExitStack() as stack:
            outputs = await listening(stack, server, members=members)
            stack.enter_context(anyio.fail_after(100))
            accepted = set()
            numbers, to_go = itertools.count(1), count

            async def publish(channel: Channel) -> None:
                nonlocal to_go
                while to_go:
                    to_go -= 1
                    number = next(numbers)
                    try:
                        await channel.publish(GROUP, number)
                    except DeliveryUnknown:
                        to_go += 1  # This one may have been accepted or not.
                    else:
                        accepted.add(number)

            async with Channel(layer_of(server, 20_000)) as channel:
                async with anyio.create_task_group() as tasks:
                    for _ in range(10):
                        tasks.start_soon(publish, channel)
                    for _ in range(5):
                        for kind in ("pubsub", "normal"):
                            server.ask("CLIENT", "KILL", "TYPE", kind)
                            await anyio.sleep(0.1)
                    server.server.freeze()
                    await anyio.sleep(1.5)
                    server.server.thaw()
                    await anyio.sleep(0.2)
                    await run_sync(server.server.kill)
                    await run_sync(server.server.start)
                await channel.publish(GROUP, 0)
            assert len(accepted) == count
            for output in outputs:
                for _ in range(members):
                    received = json.loads(await output.receive_until(b"\n", 1_000_000))
                    assert len(received) == len(set(received)), "nothing twice"
                    assert len(accepted & set(received)) == count, "nothing lost"


@pytest.mark.parametrize("somebody_waits", [True, False])
async def test_an_event_loop_that_ends_while_a_history_is_read(server: brokers.Redis, somebody_waits: bool) -> None:
    """`asyncio.run` cancels every task, those of the layer too, and reports callbacks that fail."""
    reported: list[dict[str, object]] = []

    async def program() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        layer = layer_of(server)
        await layer.connect()
        await layer.subscribe("room")
        tasks: list[asyncio.Task[None]] = [asyncio.ensure_future(leave(layer))]
        await asyncio.sleep(0)
        if somebody_waits:
            tasks.append(asyncio.ensure_future(layer.subscribe("hall")))
            with anyio.fail_after(30):
                while not (synced := layer._sync._groups.get("hall")) or synced.reading is None:
                    await asyncio.sleep(0)
        else:
            epoch = (await layer.position("room"))[:8].encode()
            layer._sync.add_live("room", HistoryEntry(b"%b-9999999999999-9" % epoch, b"9999999999999-8", b"x"))
            await asyncio.sleep(0)
            assert layer._sync._groups["room"].reading is not None

    async def leave(layer: RedisStreamsChannelLayer) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await layer.disconnect()

    await run_sync(asyncio.run, program())
    assert reported == []
