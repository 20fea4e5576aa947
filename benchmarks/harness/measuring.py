"""What several scenarios need: the figures they find, and ways to send, to wait and to weigh."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter

from .contenders import Message
from .deliveries import PATIENCE, Pace, Tally

GROUP = "bench"

Send = Callable[[Message], Awaitable[None]]


@dataclass
class Figures:
    """What one measurement found: a number for each unit, and whether the messages were the right ones."""

    values: dict[str, float]
    tally: Tally = field(default_factory=Tally)


async def send_all(send: Send, scripts: list[list[Message]], pace: Pace) -> None:
    """Send each script in a task of its own, message by message, no faster than the pace allows."""

    async def send_one_by_one(messages: list[Message]) -> None:
        for message in messages:
            await pace.turn()
            await send(message)

    if len(scripts) == 1:
        await send_one_by_one(scripts[0])
    else:
        await asyncio.gather(*map(send_one_by_one, scripts))


async def time_trips(sent: list[Message], send: Send, receive: Callable[[], Awaitable[Message]]) -> Figures:
    """Send one message at a time, and wait until a waiting reader has it."""
    loop = asyncio.get_running_loop()
    arrivals: list[asyncio.Future[tuple[float, Message]]] = [loop.create_future() for _ in sent]

    async def read() -> None:
        for arrival in arrivals:
            message = await receive()
            arrival.set_result((perf_counter(), message))

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    seconds = []
    right = 0
    for message, arrival in zip(sent, arrivals, strict=True):
        began = perf_counter()
        await send(message)
        arrived, received = await arrival if arrival.done() else await asyncio.wait_for(arrival, PATIENCE)
        seconds.append(arrived - began)
        right += received == message
    await reader
    steady = seconds[len(seconds) // 10 :]
    values = {"p50 us": median(steady) * 1e6, "p99 us": quantiles(steady, n=100, method="inclusive")[-1] * 1e6}
    return Figures(values, Tally(len(sent), right, len(sent) - right))


def traced() -> int:
    """Bytes that Python has allocated and not freed; `tracemalloc` must have been started."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
