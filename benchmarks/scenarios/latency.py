"""The time from `group_send` to a waiting member."""

from __future__ import annotations

import asyncio
from functools import partial

from ..harness.contenders import Contender
from ..harness.deliveries import script
from ..harness.measuring import GROUP, Figures, time_trips


def latency(contender: Contender, *, messages: int) -> Figures:
    """From the call of ``group_send`` until the one member, in the same loop, has the message; one at a time."""

    async def measure() -> Figures:
        async with contender.open() as layer:
            name = await layer.new_channel()
            await layer.group_add(GROUP, name)
            [sent] = script(1, messages)
            return await time_trips(sent, partial(layer.group_send, GROUP), partial(layer.receive, name))

    return asyncio.run(measure())
