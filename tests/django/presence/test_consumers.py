"""`django.presence.consumers`: the mixin, for consumers of both kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import AnyioChannelLayer, PresenceMixin

pytestmark = pytest.mark.anyio


class AsyncRoom(PresenceMixin, AsyncJsonWebsocketConsumer):
    """Sends what it is told."""

    async def connect(self) -> None:
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case ["join", member, meta]:
                members = await self.join_presence("room", member, meta)
                await self.send_json(["members", sorted(members)])
            case ["meta", meta]:
                await self.update_meta("room", meta)
            case ["leave"]:
                await self.leave_presence("room")
                await self.send_json(["has left"])
            case ["wrong"]:
                try:
                    await self.update_meta("room", {})
                except ValueError as error:
                    await self.send_json(["error", str(error)])

    async def member_joined(self, event: Any) -> None:
        await self.send_json([event["type"], event["group"], event["member"], event["metas"]])

    async def member_updated(self, event: Any) -> None:
        await self.send_json([event["type"], event["group"], event["member"], event["metas"]])

    async def member_left(self, event: Any) -> None:
        await self.send_json([event["type"], event["group"], event["member"]])


class SyncRoom(PresenceMixin, JsonWebsocketConsumer):
    """The same without coroutines."""

    def connect(self) -> None:
        self.accept()

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case ["join", member, meta]:
                members = self.join_presence("room", member, meta)
                self.send_json(["members", sorted(members)])
            case ["meta", meta]:
                self.update_meta("room", meta)
            case ["leave"]:
                self.leave_presence("room")
                self.send_json(["has left"])
            case ["wrong"]:
                try:
                    self.update_meta("room", {})
                except ValueError as error:
                    self.send_json(["error", str(error)])

    def member_joined(self, event: Any) -> None:
        self.send_json([event["type"], event["group"], event["member"], event["metas"]])

    def member_updated(self, event: Any) -> None:
        self.send_json([event["type"], event["group"], event["member"], event["metas"]])

    def member_left(self, event: Any) -> None:
        self.send_json([event["type"], event["group"], event["member"]])


class Silent(PresenceMixin, AsyncJsonWebsocketConsumer):
    """Overrides nothing, and joins by the layer."""

    async def connect(self) -> None:
        await self.accept()
        layer: Any = self.channel_layer
        await layer.group_add("room", self.channel_name, member="silent")

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(content)


class SyncSilent(PresenceMixin, JsonWebsocketConsumer):
    def connect(self) -> None:
        self.accept()
        self.join_presence("room", "silent")

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json(content)


@pytest.fixture
async def layer() -> AsyncIterator[AnyioChannelLayer]:
    made = AnyioChannelLayer(url="memory://", presence_grace=0.05)
    former = channel_layers.set("default", made)
    yield made
    channel_layers.set("default", former)  # type: ignore[arg-type]
    await made.close()


@asynccontextmanager
async def window(consumer: Any) -> AsyncIterator[WebsocketCommunicator]:
    opened = WebsocketCommunicator(consumer.as_asgi(), "/")
    connected, _ = await opened.connect(timeout=10)
    assert connected
    yield opened
    await opened.disconnect(timeout=10)


async def says(opened: WebsocketCommunicator, *content: Any) -> None:
    await opened.send_json_to(list(content))


async def hears(opened: WebsocketCommunicator) -> Any:
    return await opened.receive_json_from(timeout=10)


@pytest.mark.parametrize("consumer", [AsyncRoom, SyncRoom])
async def test_members_come_change_and_leave(layer: AnyioChannelLayer, consumer: type) -> None:
    async with window(consumer) as ana, window(consumer) as bob:
        await says(ana, "join", "ana", {"name": "Ana"})
        assert await hears(ana) == ["members", ["ana"]]
        assert await hears(ana) == ["member.joined", "room", "ana", [{"name": "Ana"}]]
        await says(bob, "join", "bob", None)
        assert await hears(bob) == ["members", ["ana", "bob"]]
        assert await hears(ana) == ["member.joined", "room", "bob", [{}]]
        await says(ana, "meta", {"name": "Anna"})
        for each in (ana, bob):
            while (told := await hears(each))[0] != "member.updated":
                assert told[0] == "member.joined"
            assert told == ["member.updated", "room", "ana", [{"name": "Anna"}]]
        await says(ana, "leave")
        assert await hears(ana) == ["has left"]
        assert await hears(bob) == ["member.left", "room", "ana"]
        await says(ana, "wrong")
        assert await hears(ana) == ["error", "This consumer has no member in 'room'; call join_presence() first"]
    members: dict[str, Any] = {"bob": None}
    while members:
        members = await asyncio.wait_for(layer.group_members("room"), 10)


@pytest.mark.parametrize("consumer", [Silent, SyncSilent])
async def test_a_consumer_need_not_listen(layer: AnyioChannelLayer, consumer: type) -> None:
    async with window(consumer) as silent, window(AsyncRoom) as other:
        await says(other, "join", "other", None)
        await hears(other)
        await says(other, "meta", {"a": 1})
        await says(other, "leave")
        while (await hears(other))[0] != "has left":
            pass
        while list(await layer.group_members("room")) != ["silent"]:
            await asyncio.sleep(0.01)
        await says(silent, "still here")
        assert await hears(silent) == ["still here"]
        (node,) = layer._dispatcher.nodes
        assert node.presence.groups["asgi:g:room"]._watchers  # found by its method
