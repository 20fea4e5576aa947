"""``python -m tests.support.file_changes``: the files that a `group_send` goes through, to a waiting `receive`.

Counts how often the file changes from one call within the package to the next one. A coroutine that goes on counts as a
call: each file of the way is one more that a reader has to open.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from types import FrameType

from django.conf import settings

import django_anyio_channels
from django_anyio_channels import AnyioChannelLayer
from tests.support.brokers import redis

PACKAGE = Path(django_anyio_channels.__file__).parent
MESSAGE = {"type": "chat.message", "text": "Hello"}
TIMES = 5
"""The shortest way of so many counts: what a socket has ready differs."""


def way(url: str) -> list[str]:
    """The files of the package in the order in which one message goes through them."""
    return min(asyncio.run(_ways(url)), key=len)


async def _ways(url: str) -> list[list[str]]:
    layer = AnyioChannelLayer(url=url)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    ways = [await _trace(layer, channel) for _ in range(TIMES)]
    await layer.close()
    return ways


async def _trace(layer: AnyioChannelLayer, channel: str) -> list[str]:
    reader = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    called: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            called.append(Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix())

    sys.setprofile(profile)
    try:
        await layer.group_send("group", MESSAGE)
        received = await reader
    finally:
        sys.setprofile(None)
    assert received == MESSAGE
    return [file for file, _ in groupby(called)]


def changes(files: Iterable[str]) -> int:
    """How often the file changes."""
    return len(list(files)) - 1


def main() -> None:
    settings.configure(DATABASES={}, CHANNEL_LAYERS={}, INSTALLED_APPS=["channels"], SECRET_KEY="for a script")
    server = redis.plain("redis")
    with redis.running(server):
        for name, url in {
            "redis": server.url,
            "streams": redis.with_streams(server.url),
            "memory": "memory://",
        }.items():
            files = way(url)
            print(f"{name}: {changes(files)} changes of the file", *files, sep="\n    ")


if __name__ == "__main__":
    main()
