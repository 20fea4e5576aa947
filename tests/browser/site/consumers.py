"""The server's half of the pages."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer

from django_anyio_channels import ResumableConsumer, SyncResumableConsumer


class Room(ResumableConsumer):
    """Everybody may join everything but the vault; ``drop`` closes the WebSocket."""

    async def authenticate(self, token: str | None) -> bool:
        self.name = token
        return token != "stolen"

    async def may_join(self, group: str) -> bool:
        return group != "vault"

    async def presence_of(self, group: str) -> str | None:
        return self.name

    async def received(self, message: Any, group: str | None) -> None:
        if message == "drop":
            await self.close(4000)
        else:
            layer: Any = self.channel_layer
            await layer.group_send(group, {"type": "group.message", "group": group, "message": message})


class SyncRoom(SyncResumableConsumer):
    """The same, synchronous."""

    def may_join(self, group: str) -> bool:
        return group != "vault"

    def received(self, message: Any, group: str | None) -> None:
        if message == "drop":
            self.close(4000)
        else:
            layer: Any = self.channel_layer
            layer.group_send_sync(group, {"type": "group.message", "group": group, "message": message})


class Fragments(AsyncWebsocketConsumer):
    """HTML for htmx."""

    groups = ["htmx"]
