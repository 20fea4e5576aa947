"""The time of ``group_add`` with and without a member."""

from __future__ import annotations

import asyncio
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, cast

from ..harness.contenders import Contender
from ..harness.deliveries import Tally
from ..harness.measuring import GROUP, Figures

if TYPE_CHECKING:
    from django_anyio_channels import AnyioChannelLayer

_GROUPS = 100


def joining(contender: Contender, *, members: int, presence: bool) -> Figures:
    """``group_add`` of new channels, each the only one of its member, or without a member."""

    async def measure() -> Figures:
        async with contender.open() as opened:
            layer = cast("AnyioChannelLayer", opened)
            names = [await layer.new_channel() for _ in range(members)]
            seconds = []
            for number, name in enumerate(names):
                group = f"{GROUP}-{number % _GROUPS}"
                member = str(number) if presence else None
                meta = {"name": "Somebody"} if presence else None
                began = perf_counter()
                await layer.group_add(group, name, member=member, meta=meta)
                seconds.append(perf_counter() - began)
                await asyncio.sleep(0)  # as between consumers, and for what goes on in the background
            counted = sum([(await layer.group_count(f"{GROUP}-{number}")).members for number in range(_GROUPS)])
            right = counted if presence else members
            return Figures({"us each": median(seconds) * 1e6}, Tally(members, right, members - right))

    return asyncio.run(measure())
