"""Reads events of a consumer group, within a time limit."""

from __future__ import annotations

from typing import Any

import anyio

from django_anyio_channels import Event, Subscriber

TIME_LIMIT = 30.0


async def next_of(reader: Subscriber) -> Event[Any]:
    with anyio.fail_after(TIME_LIMIT):
        return await reader.receive()


async def messages(reader: Subscriber, count: int) -> list[Any]:
    """The messages of the next so many events, acknowledged."""
    found = []
    for _ in range(count):
        event = await next_of(reader)
        await event.ack()
        found.append(event.message)
    return found
