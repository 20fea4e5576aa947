"""The time to ask who is in a group."""

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

_SNAPSHOTS = 15


def members_of_a_group(contender: Contender, *, members: int) -> Figures:
    """Ask another process's layer who is in a group, and how many."""

    async def measure() -> Figures:
        async with contender.open() as opened, contender.open() as other:
            layer, asking = cast("AnyioChannelLayer", opened), cast("AnyioChannelLayer", other)
            for number in range(members):
                name = await layer.new_channel()
                await layer.group_add(GROUP, name, member=str(number), meta={"name": "Somebody"})
            await layer.group_count(GROUP)
            found, snapshots, counts = 0, [], []
            for _ in range(_SNAPSHOTS):
                began = perf_counter()
                found = len(await asking.group_members(GROUP))
                snapshots.append(perf_counter() - began)
                began = perf_counter()
                await asking.group_count(GROUP)
                counts.append(perf_counter() - began)
            values = {"ms for members": median(snapshots) * 1e3, "ms for count": median(counts) * 1e3}
            return Figures(values, Tally(members, found, members - found))

    return asyncio.run(measure())
