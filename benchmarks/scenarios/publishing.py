"""The rate at which messages are accepted for groups without members."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, cast

from ..harness.contenders import Contender
from ..harness.deliveries import Tally, script
from ..harness.measuring import GROUP, Figures


def publishing(contender: Contender, *, messages: int, senders: int, groups: int, kept: bool) -> Figures:
    """``senders`` tasks, each awaiting its calls to one of some groups.

    What is ``kept`` is read back afterwards: each message, once, and in the order of its sender.
    """
    sent = script(senders, messages)

    async def read_back(layer: Any) -> int:
        right = 0
        for number in range(groups):
            expected = [list(each) for each in sent[number::groups]]
            for event in await layer.group_history(f"{GROUP}.{number}"):
                waiting = expected[event.message["sender"] // groups]
                right += waiting.pop(0) == event.message
        return right

    async def measure() -> Figures:
        async with contender.open() as layer:

            async def send(sender: int) -> None:
                group = f"{GROUP}.{sender % groups}"
                for message in sent[sender]:
                    await layer.group_send(group, message)

            await layer.group_send("warm", sent[0][0])
            began = perf_counter()
            await asyncio.gather(*map(send, range(senders)))
            seconds = perf_counter() - began
            right = await read_back(cast(Any, layer)) if kept else messages
            return Figures({"messages/s": messages / seconds}, Tally(messages, right, messages - right))

    return asyncio.run(measure())
