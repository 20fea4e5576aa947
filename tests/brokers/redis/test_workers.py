"""Jobs to worker processes: each to exactly one, and what is lost with one that is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from django_anyio_channels import RedisPubSubChannelLayer
from tests.support.brokers import redis as brokers
from tests.support.paths import ROOT
from tests.support.programs import in_a_hurry

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio

PLENTY: Any = {"capacity": 100_000, "expiry": 60.0}


@pytest.fixture(scope="module")
def shared_server() -> Iterator[brokers.Redis]:
    """Valkey only: processes are slow to start."""
    made = brokers.plain("valkey")
    with brokers.running(made):
        yield made


class Workers:
    """Processes that write every job they get to a file each, at once."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], files: list[Path]) -> None:
        self.processes = processes
        self._files = files

    def done(self) -> list[list[int]]:
        """What each has got so far."""
        return [[int(line) for line in file.read_bytes().split(b"\n")[:-1] if line.isdigit()] for file in self._files]

    def jobs(self) -> list[int]:
        """What all of them have got so far."""
        return [number for jobs in self.done() for number in jobs]

    def count(self) -> int:
        """How many jobs are done."""
        return sum(file.read_bytes().count(b"\n") for file in self._files) - len(self._files)

    def stopped(self) -> int | None:
        """Which of them has said that it stops."""
        return next((number for number, file in enumerate(self._files) if b"stopping\n" in file.read_bytes()), None)

    def ready(self) -> bool:
        return all(file.read_bytes().startswith(b"ready\n") for file in self._files)


@contextmanager
def working(url: str, folder: Path, processes: int, tasks: int = 1) -> Iterator[Workers]:
    with running(
        [sys.executable, "-m", "tests.brokers.redis.worker", url, "jobs", str(tasks)], folder, processes
    ) as workers:
        yield workers


@contextmanager
def running(command: list[str], folder: Path, processes: int) -> Iterator[Workers]:
    files = [folder / f"worker {number}" for number in range(processes)]
    made: list[subprocess.Popen[bytes]] = []
    try:
        for file in files:
            with file.open("wb") as output:
                made.append(subprocess.Popen(command, cwd=ROOT, env=in_a_hurry(), stdout=output))
        yield Workers(made, files)
    finally:
        for process in made:
            process.kill()
            process.wait()


async def send(layer: RedisPubSubChannelLayer, numbers: range) -> None:
    for number in numbers:
        await layer.put("jobs", b"%d" % number, **PLENTY)


async def send_at_once(layer: RedisPubSubChannelLayer, count: int, senders: int = 10) -> None:
    share = count // senders
    async with anyio.create_task_group() as tasks:
        for start in range(0, count, share):
            tasks.start_soon(send, layer, range(start, start + share))


async def each_was_done_once(workers: Workers, layer: RedisPubSubChannelLayer, count: int) -> None:
    """Fail unless of ``count`` jobs, and one that is sent now, each is done once, and every process had some."""
    await becomes_true(lambda: workers.count() >= count, 30)
    await layer.put("jobs", b"%d" % count, **PLENTY)
    await becomes_true(lambda: count in workers.jobs())
    assert sorted(workers.jobs()) == list(range(count + 1))
    assert all(workers.done()), "every process had work"


async def test_each_of_5000_jobs_goes_to_one_of_three_processes(
    server: brokers.Redis, connect: Connect, tmp_path: Path
) -> None:
    layer = await connect(server.url)
    with working(server.url, tmp_path, 3, tasks=2) as workers:
        await becomes_true(workers.ready)
        await send_at_once(layer, 5000)
        await each_was_done_once(workers, layer, 5000)


async def test_a_killed_worker_takes_along_no_more_than_it_had_taken(
    server: brokers.Redis, connect: Connect, tmp_path: Path
) -> None:
    layer = await connect(server.url)
    with working(server.url, tmp_path, 3) as workers:
        await becomes_true(workers.ready)
        async with anyio.create_task_group() as sending:
            sending.start_soon(send_at_once, layer, 3000)
            for victim in (0, 1):
                await becomes_true(lambda victim=victim: len(workers.done()[victim]) > 50)  # type: ignore[misc]
                workers.processes[victim].kill()
        # One may have been on its way to the only reader of each.
        await becomes_true(lambda: len(set(workers.jobs())) >= 3000 - 2, 60)
        got = workers.jobs()
    assert len(got) == len(set(got)), "nothing twice"


async def test_a_worker_that_waits_and_is_killed_takes_nothing_along(
    server: brokers.Redis, connect: Connect, tmp_path: Path
) -> None:
    layer = await connect(server.url)
    with working(server.url, tmp_path, 2) as workers:
        await becomes_true(workers.ready)
        await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 2)
        workers.processes[0].kill()
        workers.processes[0].wait()
        await send(layer, range(20))
        await becomes_true(lambda: len(workers.done()[1]) == 20)
        assert workers.done()[1] == list(range(20))


async def test_jobs_that_a_process_held_and_nobody_came_for_go_back(server: brokers.Redis, connect: Connect) -> None:
    """A reader that was quick, and then takes its time, keeps nothing from the others."""
    quick, other = await connect(server.url), await connect(server.url)
    await send(quick, range(200))
    got = [int(await quick.take("jobs")) for _ in range(100)]
    with anyio.fail_after(30):
        got += [int(await other.take("jobs")) for _ in range(100)]
    assert got[:100] == list(range(100))
    assert sorted(got) == list(range(200))


async def test_jobs_that_a_process_held_go_back_when_it_leaves(server: brokers.Redis, connect: Connect) -> None:
    quick, other = await connect(server.url), await connect(server.url)
    await send(quick, range(200))
    got = [int(await quick.take("jobs")) for _ in range(100)]
    await quick.disconnect()
    with anyio.fail_after(30):
        got += [int(await other.take("jobs")) for _ in range(100)]
    assert got == list(range(200))
