"""What is lost and refused while the broker is killed and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import perf_counter

from ..harness.contenders import Contender, Message
from ..harness.deliveries import Tally, script
from ..harness.measuring import GROUP, Figures


def restart(contender: Contender, *, messages: int, kill_and_start: Callable[[], object]) -> Figures:
    """Numbered messages from one layer to a group's member on another one, while the broker is killed and comes back.

    How many of those whose ``group_send`` returned never arrived, how many it refused, whether the reader died, and how
    long after the broker's return it had a message again. The broker dies after a third of the messages; there is one
    every two milliseconds.
    """
    [sent] = script(1, messages)

    async def measure() -> Figures:
        accepted: list[Message] = []
        received: list[Message] = []
        arrivals: list[float] = []
        refused = 0

        def outage() -> float:
            kill_and_start()
            return perf_counter()

        async with contender.open() as sender, contender.open() as receiver:
            name = await receiver.new_channel()
            await receiver.group_add(GROUP, name)

            async def read() -> None:
                while True:
                    received.append(await receiver.receive(name))
                    arrivals.append(perf_counter())

            reader = asyncio.create_task(read())
            await asyncio.sleep(0.1)  # until both are at work
            for message in sent:
                if len(accepted) + refused == messages // 3:
                    dying = asyncio.create_task(asyncio.to_thread(outage))
                try:
                    await sender.group_send(GROUP, message)
                except Exception:
                    refused += 1
                else:
                    accepted.append(message)
                await asyncio.sleep(0.002)
            returned = await dying
            for _ in range(100):  # what is still on its way has two seconds
                if reader.done() or received[-1:] == accepted[-1:]:
                    break
                await asyncio.sleep(0.02)
            died = reader.done()
            reader.cancel()
            await asyncio.wait([reader])
        right = sum(message in received for message in accepted)
        twice = sum(received.count(message) > 1 for message in sent)
        values: dict[str, float] = {
            "lost though sent": len(accepted) - right,
            "refused": refused,
            "readers that died": died,
            "s until back": min((arrival - returned for arrival in arrivals if arrival > returned), default=inf),
        }
        return Figures(values, Tally(len(accepted), right, twice))

    return asyncio.run(measure())
