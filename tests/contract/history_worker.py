"""A process of a consumer group, which prints each message that it handles, at once, and acknowledges it.

Usage: ``python -m tests.contract.history_worker CONFIG GROUP``, with CONFIG as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import anyio

from django_anyio_channels import Channel
from django_anyio_channels.django.configuration.config import read_config


async def work(config: dict[str, Any], group: str) -> None:
    """Never ends by itself."""
    async with (
        Channel(read_config(config).make_layers()) as channel,
        channel.subscribe(group, consumer_group="workers", ack="manual") as events,
    ):
        os.write(1, b"ready\n")
        async for event in events:
            os.write(1, b"%d\n" % event.message)  # nothing stays in a buffer that a kill would take along
            event.ack()


if __name__ == "__main__":
    anyio.run(work, json.loads(sys.argv[1]), sys.argv[2])
