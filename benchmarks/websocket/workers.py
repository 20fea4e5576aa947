"""``runworker`` in a process of its own: how many jobs its consumer handles.

``python -m benchmarks.websocket.workers`` is the worker; the environment is that of the servers.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter
from channels.worker import Worker
from django.utils.module_loading import import_string

from ..harness.contenders import Layer
from ..harness.deliveries import Tally
from ..harness.measuring import Figures
from .servers import variables_of

SENDERS = 16
CHANNEL = "jobs"
PATIENCE = 60.0


def measure_worker(environment: Mapping[str, Any], kind: str, jobs: int) -> Figures:
    """Have a worker handle jobs. It is asked when it has handled all."""
    layer = environment["CHANNEL_LAYERS"]["default"]
    variables = {**variables_of(environment), "BENCHMARK_CONSUMER": kind}
    with subprocess.Popen([sys.executable, "-m", __name__], env=variables) as process:
        try:
            seconds, handled = asyncio.run(_send(import_string(layer["BACKEND"])(**layer["CONFIG"]), jobs))
        finally:
            process.terminate()
            process.wait(PATIENCE)
    return Figures({"jobs/s": jobs / seconds}, Tally(jobs, handled, 0))


async def _send(layer: Layer, jobs: int) -> tuple[float, int]:
    name = await layer.new_channel()
    numbers = iter(range(jobs))

    async def ask() -> int:
        await layer.send(CHANNEL, {"type": "answer", "to": name})
        answer = await asyncio.wait_for(layer.receive(name), PATIENCE)
        return int(answer["handled"])

    async def send_one_by_one() -> None:
        for number in numbers:
            await layer.send(CHANNEL, {"type": "job", "number": number})

    before = await ask()  # the worker is up
    began = time.perf_counter()
    await asyncio.gather(*(send_one_by_one() for _ in range(SENDERS)))
    after = await ask()
    seconds = time.perf_counter() - began
    close = getattr(layer, "close", None) or partial(asyncio.sleep, 0)
    await close()
    return seconds, after - before


handled = 0


class Async(AsyncConsumer):
    """Counts its jobs, and says how many there were."""

    async def job(self, message: dict[str, Any]) -> None:
        global handled
        handled += 1

    async def answer(self, message: dict[str, Any]) -> None:
        await self.channel_layer.send(message["to"], {"type": "answer", "handled": handled})


class Sync(SyncConsumer):
    """The same by synchronous code."""

    def job(self, message: dict[str, Any]) -> None:
        global handled
        handled += 1

    def answer(self, message: dict[str, Any]) -> None:
        async_to_sync(self.channel_layer.send)(message["to"], {"type": "answer", "handled": handled})


def main() -> None:
    """Do what the command ``runworker`` does with the application of ``ASGI_APPLICATION``."""
    importlib.import_module("benchmarks.websocket.applications")  # sets Django up
    consumer = Sync if os.environ["BENCHMARK_CONSUMER"] == "sync" else Async
    worker: Any = Worker
    worker(ChannelNameRouter({CHANNEL: consumer.as_asgi()}), [CHANNEL], get_channel_layer()).run()


if __name__ == "__main__":
    main()
