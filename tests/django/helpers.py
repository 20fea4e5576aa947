"""What the tests of nodes share: layers of several processes on one broker in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from django_anyio_channels import AnyioChannelLayer, InMemoryBroker, InMemoryChannelLayer, ListenerClosed
from django_anyio_channels.core.exceptions import SubscriptionRefused
from django_anyio_channels.django.nodes.node import Node

TIME_LIMIT = 10.0


class FragileLayer(InMemoryChannelLayer):
    """In memory, but its connection can be cut, and groups called ``secret`` are refused."""

    def __init__(self, *, broker: InMemoryBroker) -> None:
        super().__init__(broker=broker)
        self.is_down = False

    async def connect(self) -> None:
        if self.is_down:
            raise ListenerClosed("the cable is out")
        await super().connect()

    async def subscribe(self, groups: str) -> None:
        if groups.endswith("secret"):
            raise SubscriptionRefused(f"{groups} is not for you")
        await super().subscribe(groups)

    def cut(self) -> None:
        """Do what happens to a connection when its broker is killed."""
        assert self._inbox is not None
        self._inbox.close()


def layers(count: int, **config: Any) -> list[AnyioChannelLayer]:
    """Return as many processes on one broker."""
    options = {"broker": InMemoryBroker()}
    return [AnyioChannelLayer(layer=FragileLayer, options=options, **config) for _ in range(count)]


def node_in(layer: AnyioChannelLayer) -> Node:
    """Return the only node of a layer."""
    (node,) = layer._dispatcher.nodes
    return node


def connection_of(layer: AnyioChannelLayer) -> FragileLayer:
    found = node_in(layer).channel.layer
    assert isinstance(found, FragileLayer)
    return found


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, TIME_LIMIT)


async def take_down(layer: AnyioChannelLayer) -> FragileLayer:
    """Cut the connection of a layer, and refuse a new one until ``is_down`` is False."""
    connection = connection_of(layer)
    connection.is_down = True
    connection.cut()
    await soon(outage_of(layer))
    return connection


async def outage_of(layer: AnyioChannelLayer) -> None:
    """Return when the layer has lost its connection."""
    while layer.statistics()["outages"] == 0:
        await asyncio.sleep(0)


async def all_channels_ended(layer: AnyioChannelLayer) -> None:
    """Return when no channel of a layer is in use."""
    while layer.statistics()["channels"]:
        await asyncio.sleep(0.001)
