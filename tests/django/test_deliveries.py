"""`django.deliveries`: the next message of a channel as a future, for the loop that hands a consumer its messages."""

from __future__ import annotations

import asyncio

import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.local_channels import LocalChannels

from .helpers import node_in, soon

pytestmark = pytest.mark.anyio

HELLO, AGAIN = {"type": "hello"}, {"type": "again"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def opened(**config: float) -> tuple[AnyioChannelLayer, LocalChannels, str]:
    layer = AnyioChannelLayer(**config)
    name = await layer.new_channel()
    return layer, node_in(layer).local_channels, name


async def test_it_waits_for_a_message() -> None:
    layer, local_channels, name = await opened()
    delivery = local_channels.next_message(name)
    assert not delivery.done()
    await layer.send(name, HELLO)
    assert await soon(delivery) == HELLO
    assert name not in local_channels
    await layer.close()


async def test_it_is_done_at_once_where_a_message_waits() -> None:
    layer, local_channels, name = await opened()
    await layer.send(name, HELLO)
    assert local_channels.next_message(name).result() == HELLO
    await layer.close()


async def test_a_cancelled_one_has_taken_nothing_and_waits_no_more() -> None:
    layer, local_channels, name = await opened()
    delivery = local_channels.next_message(name)
    assert delivery.cancel()
    assert not delivery.cancel()
    assert name not in local_channels
    await layer.send(name, HELLO)
    assert await soon(layer.receive(name)) == HELLO
    await layer.close()


async def test_those_that_wait_get_a_message_each_in_order() -> None:
    layer, local_channels, name = await opened()
    await layer.group_add("room", name)
    first, cancelled, coroutine = (
        local_channels.next_message(name),
        local_channels.next_message(name),
        asyncio.ensure_future(layer.receive(name)),
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    await layer.group_send("room", HELLO)
    await layer.send(name, AGAIN)
    assert [await soon(first), await soon(coroutine)] == [HELLO, AGAIN]
    assert name in local_channels
    await layer.close()


async def test_a_message_that_cannot_be_decoded_is_passed_over() -> None:
    layer, local_channels, name = await opened()
    delivery = local_channels.next_message(name)
    local_channels.deliver(name, asyncio.get_running_loop().time(), b"\xc1")
    assert not delivery.done()
    await layer.send(name, HELLO)
    assert await soon(delivery) == HELLO
    await layer.close()


async def test_the_message_after_another_one() -> None:
    layer, local_channels, name = await opened()
    await layer.group_add("room", name)
    for message in (HELLO, AGAIN):
        await layer.send(name, message)
    hello = await soon(local_channels.next_message(name))
    assert local_channels.take_after(name, dict(HELLO)) is None
    again = local_channels.take_after(name, hello)
    assert again == AGAIN
    assert local_channels.take_after(name, again) is None
    await layer.close()


async def test_one_that_waits_in_a_group_does_not_keep_its_node_open() -> None:
    layer, local_channels, name = await opened()
    delivery = local_channels.next_message(name)
    await layer.group_add("room", name)
    await layer.close()  # which never returned
    assert layer.statistics()["nodes"] == 0
    assert delivery.cancel()
