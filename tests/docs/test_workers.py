"""What docs/reference/guarantees.rst says of `runworker` is so: it reads some jobs ahead, and they go with it."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.layers import channel_layers
from channels.worker import Worker

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.consumers.internals import MOST_JOBS_AHEAD


class Busy(AsyncConsumer):
    """Never done with its first job."""

    async def job(self, message: object) -> None:
        await anyio.sleep_forever()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_reads_some_jobs_ahead_of_its_consumer() -> None:
    layer = AnyioChannelLayer(capacity=1)
    channel_layers.set("default", layer)
    worker = Worker(Busy.as_asgi(), ["jobs"], layer)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.handle)
            for _ in range(
                1 + MOST_JOBS_AHEAD + 1 + 1
            ):  # it has one, these wait, one waits for them, and the queue has one
                while True:
                    try:
                        await layer.send("jobs", {"type": "job"})
                        break
                    except ChannelFull:  # until the worker has read the one before, however busy its consumer is
                        await anyio.lowlevel.checkpoint()
            [queue] = [instance["input_queue"] for instance in worker.application_instances.values()]
            assert queue.full()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                with pytest.raises(ChannelFull):
                    await layer.send("jobs", {"type": "job"})
            tasks.cancel_scope.cancel()
        consumers = [instance["future"] for instance in worker.application_instances.values()]
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
    await layer.close()
    channel_layers.backends.clear()
