"""The time of a message to a channel and back."""

from __future__ import annotations

import asyncio
from functools import partial

from ..harness.children import Child, Parent
from ..harness.contenders import Contender, Layer
from ..harness.deliveries import CLOSING, PATIENCE, patiently, script
from ..harness.measuring import Figures, time_trips


def round_trip(contender: Contender, *, trips: int, size: int = 0, processes: int = 1) -> Figures:
    """``send`` to a channel whose reader sends it back: a task beside, or with ``processes`` 2 in another one."""
    child = Child(partial(_echo_in_child, contender)) if processes == 2 else None
    sent = script(1, trips)[0]
    if size:
        sent = [{**message, "text": "m" * size} for message in sent]

    async def measure() -> Figures:
        async with contender.open() as layer:
            back = await layer.new_channel()
            if child is None:
                there = await layer.new_channel()
                echo = asyncio.create_task(_echo(layer, there))
            else:
                there = child.answer(PATIENCE)
            await layer.send(there, {"type": "bench.back", "to": back})
            figures = await time_trips(sent, partial(layer.send, there), partial(layer.receive, back))
            await layer.send(there, CLOSING)
            if child is None:
                await patiently(echo)
            else:
                await asyncio.to_thread(child.answer, PATIENCE)
            return figures

    try:
        return asyncio.run(measure())
    finally:
        if child is not None:
            child.close()


async def _echo(layer: Layer, here: str) -> None:
    back = (await layer.receive(here))["to"]
    while (message := await layer.receive(here)) != CLOSING:
        await layer.send(back, message)


def _echo_in_child(contender: Contender, parent: Parent) -> None:
    async def echo() -> None:
        async with contender.open() as layer:
            here = await layer.new_channel()
            receive = asyncio.create_task(_echo(layer, here))
            # Some layers receive nothing for a name before a task waits on it.
            await asyncio.sleep(contender.moment)
            parent.tell(here)
            await receive

    asyncio.run(echo())
