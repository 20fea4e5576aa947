"""What the tests of `AnyioChannelLayer` have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django_anyio_channels import AnyioChannelLayer

T = TypeVar("T")
Message = dict[str, Any]

TIME_LIMIT = 30.0
"""Seconds after which a test that waits for something has failed."""

END: Message = {"type": "end.of.test"}


@dataclass
class Processes:
    """Makes layers of one CONFIG. Each has its own connection and its own names, as in a process of its own."""

    config: dict[str, Any]
    made: list[AnyioChannelLayer] = field(default_factory=list)

    def new(self, **changes: Any) -> AnyioChannelLayer:
        """One more process, whose CONFIG differs in ``changes``."""
        layer = AnyioChannelLayer(**{**self.config, **changes})
        self.made.append(layer)
        return layer


async def soon(awaitable: Awaitable[T]) -> T:
    """The result, or a failure after `TIME_LIMIT`."""
    return await asyncio.wait_for(awaitable, TIME_LIMIT)


async def receive(layer: AnyioChannelLayer, channel: str, count: int) -> list[Message]:
    """The next so many messages of a channel."""
    return [await soon(layer.receive(channel)) for _ in range(count)]


async def numbers(layer: AnyioChannelLayer, channel: str, count: int) -> list[int]:
    """The ``n`` of the next so many messages of a channel."""
    return [message["n"] for message in await receive(layer, channel, count)]


async def rest(layer: AnyioChannelLayer, channel: str, *, sender: AnyioChannelLayer | None = None) -> list[Message]:
    """What a channel holds. Whatever ``sender`` sent before this call has arrived then."""
    found = []
    # Over several servers the first may overtake what went another way, by a moment.
    for _ in range(2):
        await soon((sender or layer).send(channel, END))
        while (message := await soon(layer.receive(channel))) != END:
            found.append(message)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Let others run until the condition holds."""

    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await soon(wait())


def n(number: int) -> Message:
    return {"type": "number", "n": number}
