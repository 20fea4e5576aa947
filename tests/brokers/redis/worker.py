"""A process that takes jobs from a queue and prints each at once.

Usage: ``python -m tests.brokers.redis.worker URL QUEUE TASKS``.
"""

from __future__ import annotations

import os
import sys

import anyio
import anyio.lowlevel

from django_anyio_channels import Channel, RedisPubSubChannelLayer


async def work(url: str, queue: str, tasks: int) -> None:
    """Never ends by itself."""

    async def take() -> None:
        while True:
            job = await channel.queues.take(queue)
            os.write(1, job + b"\n")  # nothing stays in a buffer that a kill would take along
            await anyio.lowlevel.checkpoint()

    async with Channel(RedisPubSubChannelLayer(url)) as channel:
        await channel.connected()
        os.write(1, b"ready\n")
        async with anyio.create_task_group() as readers:
            for _ in range(tasks):
                readers.start_soon(take)


if __name__ == "__main__":
    anyio.run(work, sys.argv[1], sys.argv[2], int(sys.argv[3]))
