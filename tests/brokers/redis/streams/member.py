"""A process that listens to the numbers with several members, and reports what each of them received.

Arguments: the URL, how many members, the last number, and in how many event loops so many members are. Each loop prints
a line when it listens, and one for each member at the end: the numbers that came, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading

import anyio

from django_anyio_channels import Channel, RedisStreamsChannelLayer
from tests.support.flow import GROUP


def report(line: str) -> None:
    """Print a whole line; loops in several threads do."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(url: str, members: int, last: int) -> None:
    layer = RedisStreamsChannelLayer(url, probe_interval=1.0, history_length=20_000)
    ready = 0

    async def listen(channel: Channel) -> None:
        nonlocal ready
        numbers = []
        async with channel.subscribe(GROUP, capacity=100_000, expiry=None) as subscriber:
            ready += 1
            if ready == members:
                report("listening")
            async for event in subscriber:
                numbers.append(event.message)
                if event.message == last:
                    break
        report(json.dumps(numbers))

    async with Channel(layer) as channel, anyio.create_task_group() as tasks:
        for _ in range(members):
            tasks.start_soon(listen, channel)


if __name__ == "__main__":
    arguments = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    loops = [threading.Thread(target=lambda: anyio.run(main, *arguments)) for _ in range(int(sys.argv[4]))]
    for loop in loops:
        loop.start()
