"""Test functions for pytest, with event loops of every scope that pytest-asyncio has."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings

from django_anyio_channels import AnyioChannelLayer, ListenerClosed

END = {"type": "end"}
channels: dict[str, str] = {}
"""Loop scope -> a channel that a test has put into the group ``room`` and left there."""


async def received(layer: AnyioChannelLayer, channel: str) -> list[dict[str, Any]]:
    """All that waits on a channel."""
    await layer.send(channel, END)
    found = []
    while (message := await layer.receive(channel)) != END:
        found.append(message)
    return found


async def leave_something(layer: AnyioChannelLayer, scope: str) -> None:
    """Leave a member of a group, and a message in a queue."""
    channels[scope] = await layer.new_channel()
    await layer.group_add("room", channels[scope])
    await layer.send("jobs", {"type": "left"})
    with layer.captured() as sent:
        await layer.group_send("room", {"type": "room.message"})
    assert sent == [("group", "room", {"type": "room.message"})]


async def begins_empty(layer: AnyioChannelLayer, scope: str) -> None:
    """Nothing is left; in a loop that goes on, the channel still exists."""
    await layer.group_send("room", {"type": "room.message"})
    assert await received(layer, "jobs") == []
    if scope == "function":
        with pytest.raises(ValueError, match="Cannot receive"):
            await layer.receive(channels[scope])
    else:
        assert await received(layer, channels[scope]) == []


@pytest.mark.asyncio
async def test_function_1(channel_layer: AnyioChannelLayer) -> None:
    await leave_something(channel_layer, "function")


@pytest.mark.asyncio
async def test_function_2(channel_layer: AnyioChannelLayer) -> None:
    await begins_empty(channel_layer, "function")


@pytest.mark.asyncio(loop_scope="module")
async def test_module_1(channel_layer: AnyioChannelLayer) -> None:
    await leave_something(channel_layer, "module")


@pytest.mark.asyncio(loop_scope="session")
async def test_session_1(channel_layer: AnyioChannelLayer) -> None:
    await leave_something(channel_layer, "session")


@pytest.mark.asyncio(loop_scope="module")
async def test_module_2(channel_layer: AnyioChannelLayer) -> None:
    await begins_empty(channel_layer, "module")


@pytest.mark.asyncio(loop_scope="session")
async def test_session_2(channel_layer: AnyioChannelLayer) -> None:
    await begins_empty(channel_layer, "session")


@pytest.mark.asyncio(loop_scope="session")
async def test_outage(channel_layer: AnyioChannelLayer) -> None:
    channel = await channel_layer.new_channel()
    await channel_layer.group_add("room", channel)
    with channel_layer.outage(), pytest.raises(ListenerClosed, match=r"for 0.1 s: the test is in layer.outage\(\)"):
        await channel_layer.group_send("room", {"type": "room.message"})
    await channel_layer.group_send("room", {"type": "room.message"})
    assert await received(channel_layer, channel) == [{"type": "room.message"}]
    assert channel_layer.statistics()["outages"] >= 1


def test_layer_is_in_the_test_database(channel_layer: AnyioChannelLayer) -> None:
    channel_layer.send_sync("jobs", {"type": "job"})
    if channel_layer._settings.database is not None:
        assert settings.DATABASES["default"]["NAME"].startswith("test_")


@pytest.mark.django_db
def test_transaction_is_captured(channel_layer: AnyioChannelLayer) -> None:
    if channel_layer._settings.database is not None:
        with channel_layer.captured() as sent:
            channel_layer.in_transaction().group_send_sync("orders", {"type": "order"})
        assert sent == [("group", "orders", {"type": "order"})]
