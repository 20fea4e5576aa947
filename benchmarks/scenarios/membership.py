"""The rate of joining and leaving a group."""

from __future__ import annotations

import asyncio
from time import perf_counter

from ..harness.contenders import Contender, Layer
from ..harness.deliveries import CLOSING, PATIENCE, Tally, script
from ..harness.measuring import GROUP, Figures


def membership(contender: Contender, *, cycles: int, shared: bool) -> Figures:
    """``new_channel``, ``group_add``, ``group_discard``: in a group that has a member already, or in a new one each."""

    async def measure() -> Figures:
        async with contender.open() as layer:
            witness = await layer.new_channel()
            await layer.group_add(GROUP, witness)
            groups = [GROUP if shared else f"{GROUP}-{number}" for number in range(cycles)]
            began = perf_counter()
            for group in groups:
                name = await layer.new_channel()
                await layer.group_add(group, name)
                await layer.group_discard(group, name)
            elapsed = perf_counter() - began
            return Figures({"cycles/s": cycles / elapsed}, await _delivered(layer, groups[-1], witness))

    return asyncio.run(measure())


async def _delivered(layer: Layer, group: str, witness: str) -> Tally:
    """After cycles of joining and leaving: a member that stays receives a message once, one that left does not."""
    gone, stays = await layer.new_channel(), await layer.new_channel()
    await layer.group_add(group, gone)
    await layer.group_add(group, stays)
    await layer.group_discard(group, gone)
    [message] = script(1, 1)[0]
    names = [stays, witness] if group == GROUP else [stays]
    readers = [asyncio.create_task(layer.receive(name)) for name in (gone, *names)]
    # Some layers receive nothing for a name before a task waits on it, and need a moment to begin.
    await asyncio.wait(readers, timeout=0.1)
    await layer.group_send(group, message)
    # What comes first to the one that left is what was sent to itself, not to the group.
    await layer.send(gone, CLOSING)
    first, *received = [await asyncio.wait_for(reader, PATIENCE) for reader in readers]
    right = sum(each == message for each in received)
    return Tally(len(received), right, len(received) - right + (first != CLOSING))
