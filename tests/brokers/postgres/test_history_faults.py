"""What happens to a server and its connections while numbered messages flow through a group with a history."""

from __future__ import annotations

import os
import signal

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, Event, ListenerClosed, PostgreSQLChannelLayer
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import running
from tests.support.flow import GROUP, flow, nothing_missed

pytestmark = pytest.mark.anyio


def layer_of(server: brokers.Postgres, *, synchronous_commit: bool = False) -> PostgreSQLChannelLayer:
    return PostgreSQLChannelLayer(
        server.url, probe_interval=1.0, history_length=20_000, synchronous_commit=synchronous_commit
    )


KILL_CONNECTIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^django-anyio'"


async def test_three_thousand_over_connections_killed_five_times(own_server: brokers.Postgres) -> None:
    """From 16 senders at once, each of which sends again what may not have been accepted."""
    count, missed = 3_000, list[object]()
    accepted: list[int] = []
    received: list[Event[int]] = []

    async def send(numbers: range) -> None:
        for number in numbers:
            while True:
                try:
                    await writer.publish(GROUP, number)
                except ListenerClosed:
                    continue
                break
            accepted.append(number)

    async def read() -> None:
        while len({event.message for event in received}) < count:
            received.append(await numbers.receive())

    reading = Channel(layer_of(own_server), on_missed=lambda *what: missed.append(what))
    async with (
        Channel(layer_of(own_server)) as writer,
        reading as reader,
        reader.subscribe(GROUP, capacity=2 * count) as numbers,
        anyio.create_task_group() as tasks,
    ):
        for sender in range(16):
            tasks.start_soon(send, range(sender, count, 16))
        for kill in range(5):
            with anyio.fail_after(60):
                while len(accepted) < (kill + 1) * 500:
                    await anyio.sleep(0.002)
            await run_sync(own_server.ask, KILL_CONNECTIONS)
        with anyio.fail_after(60):
            await read()
        tasks.cancel_scope.cancel()
    assert missed == []
    positions = [event.position for event in received]
    assert len(set(positions)) == len(positions), "what came twice was sent twice"


async def test_frozen_for_three_seconds(own_server: brokers.Postgres) -> None:
    async with flow(lambda: layer_of(own_server)) as going:
        own_server.server.freeze()
        await anyio.sleep(3)
        own_server.server.thaw()
        await going.go_on()
    assert nothing_missed(going)


async def test_killed_and_restarted_with_synchronous_commits(own_server: brokers.Postgres) -> None:
    async with flow(lambda: layer_of(own_server, synchronous_commit=True), readers=3) as going:
        for _ in range(3):
            await run_sync(own_server.server.restart)
            await going.go_on()
    assert nothing_missed(going)


async def test_a_crash_that_takes_commits_back_is_reported() -> None:
    """Nothing is written to the disk for 10 s, unless a commit waits for it."""
    server = brokers.plain("wal_writer_delay=10s", "wal_buffers=16MB", "checkpoint_timeout=1d")
    with running(server.server):
        async with flow(lambda: layer_of(server)) as going:
            server.ask("CHECKPOINT")
            await going.go_on()
            await run_sync(server.server.kill)
            await run_sync(server.server.start)
            await going.go_on()
    assert going.missed == [GROUP, GROUP], "each reader gets one gap"
    assert going.gaps == []


async def test_a_backend_that_is_killed_restarts_the_server(own_server: brokers.Postgres) -> None:
    """The server ends all sessions, and does what it does after a crash."""
    async with flow(lambda: layer_of(own_server, synchronous_commit=True)) as going:
        ((pid,),) = own_server.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        os.kill(pid, signal.SIGKILL)
        await going.go_on()
    assert nothing_missed(going)
