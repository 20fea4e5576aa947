"""What the broker gets of members who stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ..harness.contenders import Contender
from ..harness.deliveries import PATIENCE, Tally
from ..harness.measuring import GROUP, Figures

if TYPE_CHECKING:
    from django_anyio_channels import AnyioChannelLayer

_GROUPS = 100


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
