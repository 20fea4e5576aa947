"""What it costs that a group knows its members: to join, to ask who is there, and to be there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, cast

from ..harness.contenders import Contender
from ..harness.deliveries import PATIENCE, Tally
from ..harness.measuring import GROUP, Figures

if TYPE_CHECKING:
    from django_anyio_channels import AnyioChannelLayer

_SNAPSHOTS = 15
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


def being_there(contender: Contender, *, members: int, intervals: int, commands: Callable[[], int]) -> Figures:
    """How many commands the broker gets of a node with members in many groups while nobody comes or goes."""

    async def measure() -> Figures:
        from django_anyio_channels.django.presence.timing import INTERVAL

        async with contender.open() as opened:
            layer = cast("AnyioChannelLayer", opened)
            for number in range(members):
                name = await layer.new_channel()
                await layer.group_add(f"{GROUP}-{number % _GROUPS}", name, member=str(number))
            for number in range(_GROUPS):
                await asyncio.wait_for(layer.group_count(f"{GROUP}-{number}"), PATIENCE)
            before = commands()
            await asyncio.sleep(intervals * INTERVAL)
            each = (commands() - before) / intervals / _GROUPS
            found = sum([(await layer.group_count(f"{GROUP}-{number}")).members for number in range(_GROUPS)])
            return Figures({"commands/group": each}, Tally(members, found, members - found))

    return asyncio.run(measure())
