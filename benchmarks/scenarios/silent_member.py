"""What a member that never reads costs the others."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from ..harness.contenders import Contender, Layer, Message
from ..harness.deliveries import CLOSING, WINDOW, Crowd, Pace, Tally, script
from ..harness.measuring import GROUP, Figures, send_all, traced


def silent_member(contender: Contender, *, members: int, messages: int) -> Figures:
    """The rate of ``members`` that read, beside one that never does and without it, and what that one costs.

    Two groups take turns of a window each, so that both rates are measured at the same time.
    """
    turns = -(-messages // WINDOW)
    expected = script(1, turns * WINDOW)

    async def rates() -> tuple[float, float, Tally]:
        async with contender.open() as layer:
            without = await _Audience.of(layer, GROUP, expected, members)
            beside = await _Audience.of(layer, f"{GROUP}-silent", expected, members)
            await layer.group_add(beside.group, await layer.new_channel())
            for turn in range(turns):
                for audience in (without, beside) if turn % 2 else (beside, without):
                    await audience.send(expected[0][turn * WINDOW : (turn + 1) * WINDOW])
            return await without.rate(), await beside.rate(), without.crowd.tally + beside.crowd.tally

    async def kept() -> tuple[float, float]:
        async with contender.open() as layer:
            await layer.group_add(GROUP, await layer.new_channel())
            before = traced()
            sizes = []
            for _ in range(2):
                for message in script(1, 1000)[0]:
                    await layer.group_send(GROUP, message)
                    await asyncio.sleep(0)
                sizes.append(traced() - before)
            return sizes[0], sizes[1]

    without, beside, tally = asyncio.run(rates())
    tracemalloc.start()
    first, second = asyncio.run(kept())
    values = {
        "deliveries/s without it": without,
        "deliveries/s beside it": beside,
        "bytes kept of 1000": first,
        "bytes kept of 2000": second,
    }
    return Figures(values, tally)


@dataclass
class _Audience:
    """A crowd that is sent a window of messages at a time, and how long that took in all."""

    layer: Layer
    group: str
    crowd: Crowd
    pace: Pace
    deliveries: int
    seconds: float = 0.0

    @classmethod
    async def of(cls, layer: Layer, group: str, expected: list[list[Message]], members: int) -> _Audience:
        pace = Pace()
        crowd = Crowd(layer, expected, on_half=pace.allow, on_end=_nothing)
        await crowd.join(group, members)
        return cls(layer, group, crowd, pace, members * sum(map(len, expected)))

    async def send(self, messages: list[Message]) -> None:
        began = perf_counter()
        await send_all(partial(self.layer.group_send, self.group), [messages], self.pace)
        await self.pace.all_read()
        self.seconds += perf_counter() - began

    async def rate(self) -> float:
        await self.layer.group_send(self.group, CLOSING)
        await self.crowd.leave()
        return self.deliveries / self.seconds


def _nothing() -> None:
    """Nobody waits for the end: `_Audience.rate` does."""
