"""The layers of docs/reference/custom-layers.rst do what the page says."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import BaseChannelLayer, Channel, ListenerClosed
from tests.support.brokers import redis as brokers
from tests.support.layers import TIME_LIMIT

from .pages import page

pytestmark = pytest.mark.anyio

PAGE = page("docs/reference/custom-layers.rst")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_one_subscription_may_have_several_names_on_the_wire() -> None:
    server = brokers.plain()
    layer: BaseChannelLayer = PAGE.run("composite")["SeveralGroups"](server.url)
    with brokers.running(server), anyio.fail_after(TIME_LIMIT):
        async with Channel(layer) as channel:
            async with channel.subscribe("a;b") as subscriber:
                for group in ("a", "b"):
                    await channel.publish(group, f"to {group}")
                received = [await subscriber.receive() for _ in range(2)]
                assert [(event.group, event.message) for event in received] == [("a", "to a"), ("b", "to b")]
            for group in ("a", "b"):
                while (await channel.publish(group, "unread")).receivers != 0:
                    pass  # it unsubscribes in the background


async def test_a_layer_of_six_methods_is_enough() -> None:
    make_layer = PAGE.run("echo")["LocalLayer"]
    layers: list[BaseChannelLayer] = [make_layer(), make_layer()]
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layers[0]) as one, Channel(layers[1]) as other, one.subscribe("room") as subscriber:
            await other.publish("room", "Hello")
            assert (await subscriber.receive()).message == "Hello"
            await layers[0].disconnect()  # the Channel connects again
            while (await other.publish("room", "again")).receivers == 0:
                await anyio.lowlevel.checkpoint()
            assert (await subscriber.receive()).message == "again"
        with pytest.raises(ListenerClosed):
            await layers[1].publish("room", b"")
