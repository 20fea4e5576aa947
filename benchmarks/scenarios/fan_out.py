"""The rate of messages to a group, or to one channel, in this process or in others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from time import perf_counter

from ..harness.children import Child, Parent
from ..harness.contenders import Contender, Message
from ..harness.deliveries import CLOSING, PATIENCE, Crowd, Pace, Slowest, Tally, patiently, script
from ..harness.measuring import GROUP, Figures, send_all


def fan_out(
    contender: Contender,
    *,
    members: int,
    messages: int,
    senders: int = 1,
    processes: int = 0,
    direct: bool = False,
    excluding: bool = False,
) -> Figures:
    """``senders`` tasks, each awaiting its calls, to one group with ``members`` in this process or in each of several.

    ``direct`` uses ``send`` to the channel of the one member instead. ``excluding`` adds a member in this process that
    each message excludes.
    """
    expected = script(senders, messages)
    children = [Child(partial(_crowd_in_child, contender, expected, members)) for _ in range(processes)]
    try:
        return asyncio.run(_fan_out(contender, expected, members, children, direct, excluding))
    finally:
        for child in children:
            child.close()


async def _fan_out(
    contender: Contender,
    expected: list[list[Message]],
    members: int,
    children: Sequence[Child],
    direct: bool,
    excluding: bool,
) -> Figures:
    pace, ended = Pace(), asyncio.Event()
    async with contender.open() as layer:
        if children:
            names = [name for child in children for name in child.answer(PATIENCE)]
            halves = Slowest(len(children), pace.allow)
            for child in children:
                _count_halves(child, halves)
        else:
            crowd = Crowd(layer, expected, on_half=pace.allow, on_end=ended.set)
            await crowd.join(GROUP, members)
            await asyncio.sleep(contender.moment)
            names = crowd.names
        send = partial(layer.send, names[0]) if direct else partial(layer.group_send, GROUP)
        if excluding:
            other = await layer.new_channel()
            await layer.group_add(GROUP, other)
            send = partial(send, exclude=other)
        began = perf_counter()
        await send_all(send, expected, pace)
        if children:
            finished = max([await asyncio.to_thread(child.answer, PATIENCE) for child in children])
            await send(CLOSING)
            tally = sum([await asyncio.to_thread(child.answer, PATIENCE) for child in children], Tally())
        else:
            await patiently(ended.wait())
            finished = perf_counter()
            await send(CLOSING)
            await crowd.leave()
            tally = crowd.tally
    return Figures({"deliveries/s": tally.expected / (finished - began)}, tally)


def _crowd_in_child(contender: Contender, expected: list[list[Message]], members: int, parent: Parent) -> Tally:
    async def read() -> Tally:
        async with contender.open() as layer:
            crowd = Crowd(layer, expected, on_half=parent.beat, on_end=lambda: parent.tell(perf_counter()))
            await crowd.join(GROUP, members)
            await asyncio.sleep(contender.moment)
            parent.tell(crowd.names)
            await crowd.leave()
            return crowd.tally

    return asyncio.run(read())


def _count_halves(child: Child, halves: Slowest) -> None:
    read = 0

    def beat(beats: int) -> None:
        nonlocal read
        for _ in range(beats):
            read += 1
            halves.read(read)

    child.on_beat(beat)
