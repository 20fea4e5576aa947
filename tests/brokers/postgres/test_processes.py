"""Queues over real processes, one of which is killed at work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread

import anyio
import pytest

from django_anyio_channels import PostgreSQLChannelLayer
from tests.support.brokers import postgres as brokers
from tests.support.programs import in_a_hurry

from .conftest import Connect

pytestmark = pytest.mark.anyio

JOBS = 5000

WORKER = """
import asyncio, sys
from django_anyio_channels import PostgreSQLChannelLayer

async def work():
    layer = PostgreSQLChannelLayer(sys.argv[1])
    await layer.connect()
    while True:
        print((await layer.take("jobs")).decode(), flush=True)

asyncio.run(work())
"""


@contextmanager
def worker(url: str, done: list[int]) -> Iterator[subprocess.Popen[str]]:
    """A process that takes one job after the other; ``done`` grows with their numbers."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True, env=in_a_hurry()
    ) as process:
        assert process.stdout is not None
        output = process.stdout
        reader = Thread(target=lambda: done.extend(int(line) for line in output if line.endswith("\n")))
        reader.start()
        try:
            yield process
        finally:
            process.kill()
            reader.join()


async def put(layer: PostgreSQLChannelLayer, number: int) -> None:
    await layer.put("jobs", b"%d" % number, capacity=JOBS, expiry=60)


async def test_each_of_many_jobs_is_done_once_though_a_worker_is_killed(
    own_server: brokers.Postgres, connect: Connect
) -> None:
    """Only the job of the killed worker may be missing."""
    layer = await connect(own_server.url)
    done: list[list[int]] = [[], [], []]
    with ExitStack() as stack:
        victim, *_ = [stack.enter_context(worker(own_server.url, each)) for each in done]
        with anyio.fail_after(50):
            async with anyio.create_task_group() as tasks:
                for number in range(JOBS):
                    tasks.start_soon(put, layer, number)
                while min(map(len, done)) < 100:
                    await anyio.sleep(0.01)
                victim.kill()
            while sum(map(len, done)) < JOBS - 1:
                await anyio.sleep(0.01)
    taken = sorted(number for each in done for number in each)
    assert len(taken) == len(set(taken))
    assert len(set(range(JOBS)) - set(taken)) <= 1
    assert own_server.ask("SELECT count(*) FROM django_anyio_channels_queue") == [(0,)]
