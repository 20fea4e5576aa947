"""How often the way of one `group_send` to a waiting `receive` changes from one file of the package to another.

Counted are the calls of the package's functions, in their order, in sender and receiver together: a call (also the
resumption of a coroutine) in another file than the call before it is one change.

``python -m tests.support.file_changes`` prints the numbers over the in-memory broker, Redis, and Redis Streams.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType

import anyio

import django_anyio_channels
from django_anyio_channels import AnyioChannelLayer
from tests.support.brokers import redis

TIME_LIMIT = 30.0
PACKAGE = f"{Path(django_anyio_channels.__file__).parent}/"
_WARM_UP = 4
"""Rounds before the one that counts; the first ones connect, fill caches, and decide which event loop publishes."""


def count(url: str) -> int:
    """Return the number of changes over the broker at ``url``, in one process."""
    return sum(one != other for one, other in pairwise(files(url)))


def files(url: str) -> list[str]:
    """Return the file of each call, relative to the package."""
    return asyncio.run(_files(url))


async def _files(url: str) -> list[str]:
    layer = AnyioChannelLayer(url=url)
    entered: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            entered.append(name.removeprefix(PACKAGE))

    with anyio.fail_after(TIME_LIMIT):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for _ in range(_WARM_UP + 1):
            receiving = asyncio.ensure_future(layer.receive(channel))
            await anyio.wait_all_tasks_blocked()
            entered.clear()
            sys.setprofile(profile)
            try:
                await layer.group_send("room", {"type": "x"})
                await receiving
            finally:
                sys.setprofile(None)
        await layer.close()
    return entered


def main() -> None:
    made = redis.plain("redis")
    with redis.running(made):
        urls = {"memory": "memory://", "Redis": made.url, "Redis Streams": redis.with_streams(made.url)}
        for name, url in urls.items():
            print(f"{name}: {count(url)} changes of file", flush=True)


if __name__ == "__main__":
    main()
