"""A room whose browsers come back, and find what they missed."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

from django_anyio_channels import AsyncResumingMixin, get_channel_layer, graceful, position_of
from tests.asgi.ends import ROOM

pages = get_asgi_application()
urlpatterns: list[Any] = []


class Room(AsyncResumingMixin, AsyncJsonWebsocketConsumer):
    """A browser says who it is and its last position; it gets ``{"n": number, "position": ...}``."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        resumption = await self.resume_group(ROOM, content["since"])
        await get_channel_layer().group_add(ROOM, self.channel_name, member=content["member"])
        await self.send_json({"complete": resumption.complete, "position": resumption.position})

    async def room_number(self, message: dict[str, Any]) -> None:
        await self.send_json({"n": message["n"], "position": position_of(message)})


application = graceful(ProtocolTypeRouter({"http": pages, "websocket": Room.as_asgi()}))
