"""A `Channel` over a layer that plays a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import msgpack

from django_anyio_channels import Backoff, BaseChannelLayer, Channel, Subscriber
from tests.support.scripted import TIME_LIMIT, ScriptedLayer, until

AT_ONCE = Backoff(first=0.0, longest=0.0)
"""Connects again without waiting."""


def open_channel(
    layer: BaseChannelLayer,
    *,
    publish_timeout: float = TIME_LIMIT,
    on_gap: Callable[[float], None] | None = None,
    capacity: int = 100,
) -> Channel:
    return Channel(layer, backoff=AT_ONCE, publish_timeout=publish_timeout, on_gap=on_gap, capacity=capacity)


@asynccontextmanager
async def hub(layer: BaseChannelLayer, *, publish_timeout: float = TIME_LIMIT) -> AsyncIterator[Channel]:
    """An open Channel; the body has `TIME_LIMIT` seconds."""
    with anyio.fail_after(TIME_LIMIT):
        async with open_channel(layer, publish_timeout=publish_timeout) as channel:
            yield channel


async def received(subscriber: Subscriber, count: int) -> list[object]:
    return [(await subscriber.receive()).message for _ in range(count)]


def encoded(message: object) -> bytes:
    payload: bytes = msgpack.packb(message)
    return payload


async def check_usable(channel: Channel, layer: ScriptedLayer) -> None:
    """Nothing is left of what was there before, and a new subscription works."""
    await until(lambda: channel.subscriptions == 0 and not layer.names)
    with anyio.fail_after(TIME_LIMIT):
        async with channel.subscribe("check") as subscriber:
            await channel.publish("check", "still usable")
            assert await received(subscriber, 1) == ["still usable"]
    await until(lambda: channel.subscriptions == 0 and not layer.names)
