"""The application of the project: a consumer that passes on what its group gets."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application


class Room(AsyncJsonWebsocketConsumer):
    """Joins the group ``room`` and puts a job into the queue ``visits``."""

    groups = ["room"]

    async def connect(self) -> None:
        await super().connect()
        await self.channel_layer.send("visits", {"type": "visit"})
        await self.send_json("joined")

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "room.message", "text": content})

    async def room_message(self, message: dict[str, Any]) -> None:
        await self.send_json(message["text"])


application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": Room.as_asgi()})
