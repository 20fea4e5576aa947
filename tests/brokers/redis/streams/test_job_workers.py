"""``runworker`` with acknowledged jobs: killed, stopped and failing workers cost time, and no job."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import AnyioChannelLayer, DeliveryUnknown
from tests.brokers.redis.conftest import becomes_true
from tests.brokers.redis.test_workers import Workers, running
from tests.support.brokers import redis as brokers

from .job_worker import CHANNEL, config, give

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def shared_server() -> Iterator[brokers.Redis]:
    """Valkey only: processes are slow to start."""
    made = brokers.plain("valkey")
    with brokers.running(made):
        yield made


@pytest.fixture
async def layer(server: brokers.Redis) -> AsyncIterator[AnyioChannelLayer]:
    layer = AnyioChannelLayer(**config(brokers.with_streams(server.url)))
    yield layer
    await layer.close()


@asynccontextmanager
async def three_workers(server: brokers.Redis, folder: Path) -> AsyncIterator[Workers]:
    """Three processes, once all of them wait for jobs."""
    command = [
        sys.executable,
        "-m",
        "tests.brokers.redis.streams.job_worker",
        brokers.with_streams(server.url),
        str(folder),
    ]
    with running(command, folder, 3) as workers:
        await becomes_true(lambda: waiting(server) == 3, 30)
        yield workers


def waiting(server: brokers.Redis) -> int:
    """How many nodes wait for jobs."""
    return int(server.ask("PUBSUB", "NUMSUB", "{asgi:q:jobs}|messages")[1])


def pending(server: brokers.Redis) -> int:
    return int(server.ask("ZCARD", "{asgi:q:jobs}|pending"))


async def test_killed_workers_lose_no_job(server: brokers.Redis, layer: AnyioChannelLayer, tmp_path: Path) -> None:
    """2000 jobs for three workers, two of which are killed in the middle."""
    count = 2000
    async with three_workers(server, tmp_path) as workers:
        async with anyio.create_task_group() as sending:
            for start in range(0, count, 200):
                sending.start_soon(give, layer, range(start, start + 200))
            for victim in (0, 1):
                await becomes_true(lambda victim=victim: len(workers.done()[victim]) > 50, 30)  # type: ignore[misc]
                workers.processes[victim].kill()
        await becomes_true(lambda: len(set(workers.jobs())) == count, 60)
        await becomes_true(lambda: pending(server) == 0)
        done, everything = workers.done(), workers.jobs()
    twice = {number for number in everything if everything.count(number) > 1}
    assert sorted(set(everything)) == list(range(count))
    assert len(everything) == count + len(twice)
    assert twice <= {done[0][-1], done[1][-1]}, "only what a dead worker had pending"


async def test_a_killed_server_with_its_log_loses_no_job_that_it_accepted(tmp_path: Path) -> None:
    """Killed and started again twice under 1000 jobs; each that `send` returned for is done, at least once."""
    server = brokers.plain("valkey", "--appendonly", "yes", "--appendfsync", "always")
    layer = AnyioChannelLayer(**config(brokers.with_streams(server.url)))
    accepted: list[int] = []
    with brokers.running(server):
        async with three_workers(server, tmp_path) as workers:
            async with anyio.create_task_group() as sending:

                async def send(numbers: range) -> None:
                    for number in numbers:
                        try:
                            await layer.send(CHANNEL, {"type": "job.do", "number": number})
                        except DeliveryUnknown:
                            continue
                        accepted.append(number)

                for start in range(0, 1000, 200):
                    sending.start_soon(send, range(start, start + 200))
                for goal in (100, 400):
                    await becomes_true(lambda goal=goal: len(accepted) > goal, 30)  # type: ignore[misc]
                    await run_sync(server.server.restart)
            await becomes_true(lambda: set(accepted) <= set(workers.jobs()), 60)
            await becomes_true(lambda: pending(server) == 0)
        await layer.close()
    assert len(accepted) > 900, "those on their way when the server died are few"


async def test_the_job_of_a_stopped_worker_is_done_by_another(
    server: brokers.Redis, layer: AnyioChannelLayer, tmp_path: Path
) -> None:
    async with three_workers(server, tmp_path) as workers:
        await layer.send(CHANNEL, {"type": "job.stop", "number": 1})
        await becomes_true(lambda: workers.stopped() is not None)
        stopped = workers.stopped()
        assert stopped is not None
        await becomes_true(lambda: workers.jobs() == [1])
        assert workers.done()[stopped] == []
        os.kill(workers.processes[stopped].pid, signal.SIGCONT)
        for number in range(2, 30):
            await layer.send(CHANNEL, {"type": "job.do", "number": number})
        await becomes_true(lambda: pending(server) == 0 and len(workers.jobs()) == 29)


async def test_a_poisonous_job_ends_as_a_dead_letter(
    server: brokers.Redis, layer: AnyioChannelLayer, tmp_path: Path
) -> None:
    async with three_workers(server, tmp_path) as workers:
        await layer.send(CHANNEL, {"type": "job.fail", "number": 1})
        await layer.send(CHANNEL, {"type": "job.do", "number": 2})
        with anyio.fail_after(30):
            while not (letters := await layer.group_history(f"{CHANNEL}.dead")):
                await anyio.sleep(0.05)
        done = sorted(workers.jobs())
    assert [letter.message for letter in letters] == [{"type": "job.fail", "number": 1}]
    assert done == [1, 1, 2], "as often as deliver_at_most says"
