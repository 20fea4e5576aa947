"""What the tests of layers have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from django_anyio_channels import BaseChannelLayer, Event, Gap

from .kinds import Broker, Kind

Unique = Callable[[str], str]

TIME_LIMIT = 30.0
"""Seconds after which a test that waits for something has failed."""


@asynccontextmanager
async def connected(broker: Broker, count: int = 1) -> AsyncIterator[list[BaseChannelLayer]]:
    """So many layers of one broker, each with its own connection. The body has `TIME_LIMIT` seconds."""
    layers = [broker.layer() for _ in range(count)]
    try:
        with anyio.fail_after(TIME_LIMIT):
            for layer in layers:
                await layer.connect()
            yield layers
    finally:
        with anyio.CancelScope(shield=True):
            for layer in layers:
                await layer.disconnect()


async def read(layer: BaseChannelLayer, count: int) -> list[Event[bytes]]:
    """The next so many events; that a layer had to leave some out, and says so, doesn't count."""
    events: list[Event[bytes]] = []
    while len(events) < count:
        event = await layer.next_published()
        if not isinstance(event, Gap):
            events.append(event)
    return events


async def messages(layer: BaseChannelLayer, count: int) -> list[bytes]:
    """The messages of the next so many events."""
    return [event.message for event in await read(layer, count)]


async def take_all(layer: BaseChannelLayer, queue: str, *, until: bytes) -> list[bytes]:
    """What a queue holds before a last message, which is not returned."""
    taken = []
    while (message := await layer.take(queue)) != until:
        taken.append(message)
    return taken


async def accepted(kind: Kind, layer: BaseChannelLayer) -> None:
    """Wait until the broker has what the layer published: at once, if `publish` waits for that."""
    if not kind.acknowledged:
        await layer.subscribe("after what was published")
        await layer.unsubscribe("after what was published")


async def blocked() -> None:
    """Wait until all other tasks wait for something.

    On asyncio `anyio.wait_all_tasks_blocked` sleeps for a tenth of a second if not all do when it looks.
    """
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
