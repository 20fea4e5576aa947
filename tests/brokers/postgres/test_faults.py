"""What goes wrong with a server, while numbered messages flow from one node to another."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import Backoff, Channel, ListenerClosed, PostgreSQLChannelLayer, Subscriber
from tests.support.brokers import postgres as brokers
from tests.support.brokers.server import running

pytestmark = pytest.mark.anyio

T = TypeVar("T")

TIME_LIMIT = 40.0
GROUP = "numbers"


def channel(url: str, on_gap: Callable[[float], None] | None = None, backoff: Backoff | None = None) -> Channel:
    layer = PostgreSQLChannelLayer(url, probe_interval=1.0, timeout=2.0)
    return Channel(layer, on_gap=on_gap, capacity=1_000_000, backoff=backoff or Backoff(longest=0.3))


@dataclass
class Traffic:
    """One node publishes numbers, another one receives them."""

    writer: Channel
    reader: Channel
    gaps: list[float]
    accepted: list[int] = field(default_factory=list)
    """The numbers whose `publish` returned."""
    received: list[int] = field(default_factory=list)
    published: int = 0

    async def write(self) -> None:
        while True:
            number, self.published = self.published, self.published + 1
            try:
                await self.writer.publish(GROUP, number)
            except ListenerClosed:
                await anyio.lowlevel.checkpoint()
                continue  # not accepted
            self.accepted.append(number)

    async def read(self, subscriber: Subscriber) -> None:
        async for event in subscriber:
            self.received.append(event.message)

    async def flow(self) -> None:
        """Wait until some messages that are published from now on have arrived."""
        begin = self.published
        await until(lambda: bool(self.received) and self.received[-1] > begin + 20)

    @property
    def missed(self) -> list[int]:
        """The numbers accepted before the last received one, and not received."""
        return sorted({number for number in self.accepted if number < self.received[-1]} - set(self.received))

    def check(self) -> None:
        """The promises that hold whatever happens."""
        assert self.received == sorted(set(self.received)), "in order, once"
        assert self.gaps or not self.missed, "missed but not reported"


async def in_a_thread(function: Callable[..., T], *arguments: object) -> T:
    return await anyio.to_thread.run_sync(lambda: function(*arguments))


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(TIME_LIMIT):
        while not condition():
            await anyio.sleep(0.01)


@asynccontextmanager
async def flowing(url: str) -> AsyncIterator[Traffic]:
    """Messages flow when it begins, and after the body they must flow again; then the promises are checked."""
    gaps: list[float] = []
    async with channel(url) as writer, channel(url, gaps.append) as reader:
        with anyio.fail_after(TIME_LIMIT):
            async with reader.subscribe(GROUP) as subscriber, anyio.create_task_group() as tasks:
                traffic = Traffic(writer, reader, gaps)
                tasks.start_soon(traffic.read, subscriber)
                tasks.start_soon(traffic.write)
                await traffic.flow()
                yield traffic
                await traffic.flow()
                await until(lambda: bool(gaps) or not traffic.missed)  # told after the subscriptions are restored
                tasks.cancel_scope.cancel()
    traffic.check()


async def test_nothing_is_missed_while_nothing_happens(own_server: brokers.Postgres) -> None:
    async with flowing(own_server.url) as traffic:
        await traffic.flow()
    assert traffic.missed == []
    assert traffic.gaps == []
    assert len(traffic.accepted) == traffic.published or traffic.published - len(traffic.accepted) == 1


async def test_kill_and_restart(own_server: brokers.Postgres) -> None:
    async with flowing(own_server.url) as traffic:
        for number in range(1, 4):
            await anyio.to_thread.run_sync(own_server.server.restart)
            await until(lambda number=number: len(traffic.gaps) == number)  # type: ignore[misc]
            await traffic.flow()


async def test_after_a_restart_a_publish_waits_until_the_others_listen(own_server: brokers.Postgres) -> None:
    late = Backoff(first=0.5, longest=0.5)
    async with channel(own_server.url) as writer, channel(own_server.url, backoff=late) as reader:
        with anyio.fail_after(TIME_LIMIT):
            async with reader.subscribe(GROUP) as subscriber:
                for _ in range(20):  # meanwhile the reader announces itself, and the writer counts it
                    await writer.publish(GROUP, "before")
                    assert (await anext(subscriber)).message == "before"
                await in_a_thread(own_server.server.restart)
                await until(lambda: writer.outages == 1)
                await writer.publish(GROUP, "after")
                assert reader.outages == 1
                assert (await anext(subscriber)).message == "after"


async def test_a_publish_waits_only_a_moment_for_a_node_that_does_not_come_back(own_server: brokers.Postgres) -> None:
    async with channel(own_server.url) as writer, writer.subscribe(GROUP) as subscriber:
        async with channel(own_server.url) as other, other.subscribe(GROUP):
            await writer.publish(GROUP, "before")
            await anext(subscriber)
        with anyio.fail_after(TIME_LIMIT):
            await in_a_thread(own_server.server.restart)
            await until(lambda: writer.outages == 1)
            await writer.publish(GROUP, "after")
            assert (await anext(subscriber)).message == "after"


@pytest.mark.parametrize("whose", ["the reader's", "the writer's"])
@pytest.mark.parametrize("verb", ["LISTEN", "pg_notify"])
async def test_a_terminated_connection(own_server: brokers.Postgres, whose: str, verb: str) -> None:
    async with flowing(own_server.url) as traffic:
        node = traffic.reader if whose == "the reader's" else traffic.writer
        pid = process_of(node, verb)
        before = node.outages
        ((terminated,),) = await in_a_thread(own_server.ask, "SELECT pg_terminate_backend(%s)", pid)
        assert terminated
        await until(lambda: node.outages == before + 1)
    if whose == "the writer's":
        assert traffic.missed == []
        assert traffic.gaps == []


def process_of(node: Channel, verb: str) -> int:
    """The server's process for one of a node's two connections."""
    layer = node.layer
    assert isinstance(layer, PostgreSQLChannelLayer)
    return layer.processes["listening" if verb == "LISTEN" else "publishing"]


async def test_a_frozen_server(own_server: brokers.Postgres) -> None:
    async with flowing(own_server.url) as traffic:
        own_server.server.freeze()
        await until(lambda: traffic.reader.outages == 1 and traffic.writer.outages == 1)
        own_server.server.thaw()
        await until(lambda: len(traffic.gaps) == 1)


async def test_a_connection_that_falls_silent_without_being_closed(own_server: brokers.Postgres) -> None:
    """Only the server's processes of the reader stop, so that its connections stay open and silent."""
    async with flowing(own_server.url) as traffic:
        pids = [process_of(traffic.reader, verb) for verb in ("LISTEN", "pg_notify")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await until(lambda: len(traffic.gaps) == 1)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert traffic.gaps


async def test_a_server_that_is_down_at_the_start() -> None:
    late = brokers.plain()
    try:
        async with channel(late.url) as node, anyio.create_task_group() as tasks:
            received: list[object] = []

            async def read() -> None:
                async with node.subscribe(GROUP) as subscriber:
                    async for event in subscriber:
                        received.append(event.message)

            with anyio.fail_after(TIME_LIMIT):
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(late.server.start)
                while not received:
                    await node.publish(GROUP, "hello")
                tasks.cancel_scope.cancel()
    finally:
        late.server.stop()


async def test_a_password_that_is_changed_meanwhile(own_server: brokers.Postgres) -> None:
    own_server.ask("CREATE ROLE node LOGIN PASSWORD 'old'")
    url = own_server.url.replace(f"postgres:{brokers.PASSWORD.replace(' ', '%20')}@", "node:old@")
    async with flowing(url) as traffic:
        await in_a_thread(own_server.ask, "ALTER ROLE node PASSWORD 'new'")
        await in_a_thread(
            own_server.ask, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'node'"
        )
        await until(lambda: traffic.reader.outages == 1 and traffic.writer.outages == 1)
        await in_a_thread(own_server.ask, "ALTER ROLE node PASSWORD 'old'")
        await until(lambda: len(traffic.gaps) == 1)


async def test_a_wrong_password_is_what_publish_complains_of(own_server: brokers.Postgres) -> None:
    layer = PostgreSQLChannelLayer(**{**own_server.connection, "password": "wrong"})
    async with Channel(layer, publish_timeout=5.0) as node:
        with pytest.raises(ListenerClosed, match=r"password authentication failed.*Correct the user name"):
            await node.publish(GROUP, "x")


async def test_a_database_that_is_dropped_and_made_again(own_server: brokers.Postgres) -> None:
    own_server.ask("CREATE DATABASE app")
    app = brokers.Postgres(own_server.server, own_server.programs, "app")
    async with flowing(app.url) as traffic:
        await in_a_thread(own_server.ask, "DROP DATABASE app WITH (FORCE)")
        await until(lambda: traffic.reader.outages == 1 and traffic.writer.outages == 1)
        await in_a_thread(own_server.ask, "CREATE DATABASE app")
        await until(lambda: len(traffic.gaps) == 1)


async def test_a_server_without_room_for_another_connection() -> None:
    small = brokers.plain("max_connections=5", "superuser_reserved_connections=0")
    with running(small.server):
        async with flowing(small.url) as traffic:
            taken = PostgreSQLChannelLayer(small.url)
            with pytest.raises(ListenerClosed, match="too many clients"):
                await taken.connect()
            await traffic.flow()
        assert traffic.missed == []
        assert traffic.gaps == []


async def test_a_queue_gives_each_job_once_while_connections_are_terminated(own_server: brokers.Postgres) -> None:
    """What put has accepted is taken once by one of two workers, but what the terminated worker was just taking."""
    taken: list[int] = []
    accepted: list[int] = []
    async with channel(own_server.url) as sender, channel(own_server.url) as one, channel(own_server.url) as two:
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tasks:

                async def work(node: Channel) -> None:
                    while True:
                        taken.append(node.serializer.decode(await node.queues.take("jobs")))

                async def send() -> None:
                    for number in range(600):
                        try:
                            await sender.queues.put("jobs", sender.encode(number), capacity=10_000, expiry=60)
                        except ListenerClosed:
                            continue
                        accepted.append(number)

                async def disturb() -> None:
                    await until(lambda: len(taken) > 100)
                    for verb in ("LISTEN", "pg_notify"):
                        pid = process_of(one, verb)
                        outages = one.outages
                        await in_a_thread(own_server.ask, "SELECT pg_terminate_backend(%s)", pid)
                        await until(lambda outages=outages: one.outages > outages)  # type: ignore[misc]
                        await one.connected()

                tasks.start_soon(work, one)
                tasks.start_soon(work, two)
                tasks.start_soon(disturb)
                await send()
                await until(lambda: bool(taken) and len(set(accepted) - set(taken)) <= 2)
                await until(lambda: own_server.ask("SELECT count(*) FROM django_anyio_channels_queue") == [(0,)])
                tasks.cancel_scope.cancel()
    assert len(taken) == len(set(taken))
    assert len(set(accepted) - set(taken)) <= 2
