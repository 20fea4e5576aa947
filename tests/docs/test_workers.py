"""What docs/reference/guarantees.rst says of `runworker` is so: it reads ahead, and that goes with it."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.worker import Worker

from django_anyio_channels import AnyioChannelLayer

JOBS = 10


class Busy(AsyncConsumer):
    """Never done with its first job."""

    async def job(self, message: object) -> None:
        await anyio.sleep_forever()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_reads_ahead_of_its_consumer() -> None:
    layer = AnyioChannelLayer(capacity=1)
    worker = Worker(Busy.as_asgi(), ["jobs"], layer)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.handle)
            for _ in range(JOBS):
                while True:
                    try:
                        await layer.send("jobs", {"type": "job"})
                        break
                    except ChannelFull:  # until the worker has read the one before, however busy its consumer is
                        await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        consumers = [instance["future"] for instance in worker.application_instances.values()]
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
    await layer.close()
