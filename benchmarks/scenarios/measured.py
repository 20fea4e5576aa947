"""What metrics for Prometheus cost a group, as CPU time."""

from __future__ import annotations

import asyncio
import gc
from statistics import median
from time import process_time
from typing import Any, cast

from ..harness.contenders import Contender, Layer, Message
from ..harness.deliveries import Tally, script
from ..harness.measuring import GROUP, Figures

_AT_ONCE = 50
"""Messages, fewer than the smallest default capacity of a mailbox."""


def measured(contender: Contender, *, members: int, turns: int, **config: Any) -> Figures:
    """The CPU time of a delivery without and with ``telemetry``, in turns within one process.

    The second is the first times the median of the ratios of turns that followed each other: what else the machine does
    meets both alike.
    """
    return asyncio.run(_measured(contender, members, turns, config))


async def _measured(contender: Contender, members: int, turns: int, config: dict[str, Any]) -> Figures:
    from django_anyio_channels import AnyioChannelLayer

    messages = script(1, _AT_ONCE)[0]
    tally = Tally()
    async with contender.open() as plain:
        observed = AnyioChannelLayer(**config, telemetry="prometheus")
        layers: tuple[Layer, Layer] = plain, cast(Layer, observed)
        names = [[await layer.new_channel() for _ in range(members)] for layer in layers]
        for layer, channels in zip(layers, names, strict=True):
            for channel in channels:
                await layer.group_add(GROUP, channel)
            tally += (await _turn(layer, channels, messages))[1]
        gc.disable()
        seconds: tuple[list[float], list[float]] = [], []
        for turn in range(turns):
            for which in (0, 1) if turn % 2 else (1, 0):
                spent, delivered = await _turn(layers[which], names[which], messages)
                seconds[which].append(spent)
                tally += delivered
        await observed.close()
    without = median(seconds[0]) / len(messages) / members * 1e6
    ratio = median(on / off for off, on in zip(*seconds, strict=True))
    return Figures({"CPU us a delivery without": without, "CPU us a delivery with": without * ratio}, tally)


async def _turn(layer: Layer, channels: list[str], messages: list[Message]) -> tuple[float, Tally]:
    """Send each message, and have every member receive it."""
    received = []
    began = process_time()
    for message in messages:
        await layer.group_send(GROUP, message)
        for channel in channels:
            received.append(await layer.receive(channel))
    spent = process_time() - began
    expected = [message for message in messages for _ in channels]
    right = sum(one == other for one, other in zip(received, expected, strict=True))
    return spent, Tally(len(expected), right, len(expected) - right)
