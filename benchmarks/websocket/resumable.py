"""The ASGI application of clients that come back; a server imports it in a process of its own, as `applications`."""

from __future__ import annotations

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer

from . import applications  # first: it sets Django up

# isort: split
from django_anyio_channels import ResumableConsumer


class Room(ResumableConsumer):
    """Anybody may join any group."""

    async def may_join(self, group: str) -> bool:
        return True


class Control(AsyncWebsocketConsumer):
    """Sends what it receives: a list of groups and a text, which each of them gets. It says when that is done."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        groups, text = json.loads(text_data or "")
        layer: Any = self.channel_layer
        for group in groups:
            await layer.group_send(group, {"type": "group.message", "message": text})
        await self.send(text_data="done")


_ROUTES: dict[str, Any] = {"/room": Room.as_asgi(), "/control": Control.as_asgi()}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The consumer of each path."""
    if scope["type"] != "websocket":
        raise ValueError(f"no WebSocket but {scope['type']}")
    await _ROUTES[scope["path"]](scope, receive, send)


__all__ = ["application", "applications"]
