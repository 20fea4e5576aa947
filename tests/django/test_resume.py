"""`django.resume`: how the mixins end a consumer whose browser must come back."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import BaseChannelLayer, InMemoryChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import (
    AnyioChannelLayer,
    AsyncResumingMixin,
    NotSupported,
    ResumingMixin,
    position_of,
)

MISSED = {"type": "group.missed", "group": "room"}
GONE = {"type": "websocket.disconnect", "code": 4013}


class Sync(ResumingMixin):
    """A consumer whose browser has gone, so that nothing can be closed."""

    def __init__(self) -> None:
        self.disconnects: list[dict[str, Any]] = []

    def close(self, code: int) -> None:
        raise RuntimeError("the browser has gone")

    def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self.disconnects.append(message)
        raise StopConsumer


class Async(AsyncResumingMixin):
    """The same."""

    def __init__(self) -> None:
        self.disconnects: list[dict[str, Any]] = []

    async def close(self, code: int) -> None:
        raise RuntimeError("the browser has gone")

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self.disconnects.append(message)
        raise StopConsumer


def test_a_consumer_disconnects_though_closing_fails() -> None:
    sync_consumer, async_consumer = Sync(), Async()
    with pytest.raises(StopConsumer):
        sync_consumer.group_missed(MISSED)
    with pytest.raises(StopConsumer):
        asyncio.run(async_consumer.group_missed(MISSED))
    assert sync_consumer.disconnects == async_consumer.disconnects == [GONE]


def test_a_consumer_without_a_websocket_names_what_it_needs() -> None:
    class Job(AsyncResumingMixin, AsyncConsumer):
        pass

    class SyncJob(ResumingMixin, AsyncConsumer):
        pass

    with pytest.raises(TypeError, match="Job has no WebSocket to close .* define group_missed"):
        asyncio.run(Job().group_missed({}))
    with pytest.raises(TypeError, match="SyncJob has no WebSocket to close"):
        SyncJob().group_missed({})


class Window(AsyncResumingMixin, AsyncJsonWebsocketConsumer):
    """What docs/guides/history.rst shows, in short."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        resumption = await self.resume_group("room", content.get("since"), last=2)
        await self.send_json([resumption.position, resumption.complete, resumption.has_history])

    async def chat(self, message: dict[str, Any]) -> None:
        await self.send_json([message["n"], position_of(message)])


@pytest.mark.parametrize("make", [lambda: AnyioChannelLayer(url="memory://"), InMemoryChannelLayer])
@pytest.mark.parametrize("since", [None, "01234567-1-1"])
def test_without_a_history_a_browser_comes_in_as_ever(make: Any, since: str | None) -> None:
    async def main() -> None:
        browser = WebsocketCommunicator(cast(Any, Window.as_asgi()), "/")
        assert await browser.connect(timeout=25) == (True, None)
        await browser.send_json_to({"since": since})
        assert await browser.receive_json_from(timeout=25) == [None, since is None, False]
        await layer.group_send("room", {"type": "chat", "n": 1})
        assert await browser.receive_json_from(timeout=25) == [1, None]
        await browser.disconnect()

    layer = make()
    before = channel_layers.set("default", layer)
    try:
        asyncio.run(main())
    finally:
        channel_layers.set("default", cast(BaseChannelLayer, before))


@pytest.mark.parametrize("since", [None, "01234567-1-1"])
def test_a_layer_without_a_history_says_so(since: str | None) -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(url="memory://")
        with pytest.raises(NotSupported, match="keeps no history unless .* set history_length"):
            await layer.group_resume("room", await layer.new_channel(), since=since)
        await layer.close()

    asyncio.run(main())


def test_what_waits_does_not_expire_before_it_leaves() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(expiry=2.0, options={"history_length": 10})
        channel, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_resume("room", channel)
        await layer.group_resume("hall", channel)
        await layer.group_add("room", other)
        await layer.group_send("room", {"type": "chat", "n": 0})
        await expired(layer, 1)
        await layer.group_discard("hall", channel)
        assert await layer.receive(channel) == {"type": "chat", "n": 0}
        await layer.group_discard("room", channel)
        await layer.send(channel, {"type": "chat", "n": 1})
        await expired(layer, 2)
        await layer.close()

    asyncio.run(main())


async def expired(layer: AnyioChannelLayer, count: int) -> None:
    async with asyncio.timeout(30):
        while layer.statistics()["expired"] < count:
            await asyncio.sleep(0.01)
