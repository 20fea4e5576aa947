"""Django's ``runworker`` as a process that prints its jobs.

Usage: ``python -m tests.brokers.redis.streams.job_worker URL FOLDER``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from channels.consumer import AsyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.conf import settings

from django_anyio_channels import AnyioChannelLayer

CHANNEL = "jobs"
OPTIONS: dict[str, Any] = {"redeliver_after": 2.0, "deliver_at_most": 2, "probe_interval": 1.0}


def config(url: str) -> dict[str, Any]:
    """CONFIG, for the workers and whoever gives them work."""
    return {"url": url, "acknowledged": [CHANNEL], "capacity": 10_000, "options": OPTIONS}


async def give(layer: AnyioChannelLayer, numbers: range) -> None:
    """Have the jobs of these numbers done."""
    for number in numbers:
        await layer.send(CHANNEL, {"type": "job.do", "number": number})


class Worker(AsyncConsumer):
    """Writes down every job, at once: nothing stays in a buffer that a kill would take along."""

    async def job_do(self, message: dict[str, Any]) -> None:
        os.write(1, b"%d\n" % message["number"])

    async def job_stop(self, message: dict[str, Any]) -> None:
        """The first who gets it falls asleep over it."""
        try:
            os.close(os.open(Path(sys.argv[2]) / "stopped", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            await self.job_do(message)
        else:
            os.write(1, b"stopping\n")
            os.kill(os.getpid(), signal.SIGSTOP)

    async def job_fail(self, message: dict[str, Any]) -> None:
        await self.job_do(message)
        raise ArithmeticError(f"job {message['number']} is poison")


application = ProtocolTypeRouter({"channel": ChannelNameRouter({CHANNEL: Worker.as_asgi()})})


def main() -> None:
    """Never ends by itself."""
    settings.configure(
        CHANNEL_LAYERS={
            "default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer", "CONFIG": config(sys.argv[1])}
        },
        INSTALLED_APPS=["channels"],
        ASGI_APPLICATION="tests.brokers.redis.streams.job_worker.application",
    )
    import django
    from django.core.management import call_command

    django.setup()
    os.write(1, b"ready\n")
    call_command("runworker", CHANNEL)


if __name__ == "__main__":
    main()
