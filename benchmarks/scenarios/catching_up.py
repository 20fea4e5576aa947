"""The time and the bytes to read what a member has missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any, cast

from ..harness.contenders import Contender, Layer, Message
from ..harness.deliveries import PATIENCE, WINDOW, Tally, script
from ..harness.measuring import GROUP, Figures


def catching_up(contender: Contender, *, missed: int, output: Callable[[], int] | None = None) -> Figures:
    """A channel comes back to a group, of which it has missed so many messages, until it has read the last of them.

    ``output`` says how many bytes the server has sent in all, if there is one; its answer to that is not counted.
    """
    sent_by_server = output or int
    [sent] = script(1, missed)

    async def read(layer: Layer, name: str) -> list[Message]:
        return [await layer.receive(name) for _ in range(missed)]

    async def measure() -> Figures:
        async with contender.open() as opened:
            layer = cast(Any, opened)
            since = await layer.group_resume(GROUP, await layer.new_channel())
            for first in range(0, missed, WINDOW):
                await asyncio.gather(*(layer.group_send(GROUP, each) for each in sent[first : first + WINDOW]))
            name = await layer.new_channel()
            before = sent_by_server()
            answer = sent_by_server() - before
            before, began = sent_by_server(), perf_counter()
            await layer.group_resume(GROUP, name, since=since)
            received = await asyncio.wait_for(read(layer, name), PATIENCE)
            seconds = perf_counter() - began
            values = {"ms": seconds * 1000, "bytes a message": (sent_by_server() - before - answer) / missed}
            # What is sent at once may come in any order.
            right = sum(map(Message.__eq__, sorted(received, key=repr), sorted(sent, key=repr)))
            return Figures(values, Tally(missed, right, missed - right))

    return asyncio.run(measure())
