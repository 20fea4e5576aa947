"""What the tests of layers have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from django_anyio_channels import BaseChannelLayer, Event

from .kinds import Broker

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
    """The next so many events."""
    return [await layer.next_published() for _ in range(count)]


async def messages(layer: BaseChannelLayer, count: int) -> list[bytes]:
    """The messages of the next so many events."""
    return [event.message for event in await read(layer, count)]


async def take_all(layer: BaseChannelLayer, queue: str, *, until: bytes) -> list[bytes]:
    """What a queue holds before a last message, which is not returned."""
    taken = []
    while (message := await layer.take(queue)) != until:
        taken.append(message)
    return taken
