"""The ASGI applications that are served, one per kind of consumer.

A server imports this module in a process of its own. The environment says which channel layer the consumers have, as
the values of ``CHANNEL_LAYERS`` and ``DATABASES`` in JSON. What a client sends that connects to ``/control`` is sent to
the group, by ``/control-ready`` as ready frames.
"""

from __future__ import annotations

import json
import os
from typing import Any

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        CHANNEL_LAYERS=json.loads(os.environ["BENCHMARK_CHANNEL_LAYERS"]),
        DATABASES=json.loads(os.environ.get("BENCHMARK_DATABASES", "{}")),
        INSTALLED_APPS=json.loads(os.environ["BENCHMARK_INSTALLED_APPS"]),
        SECRET_KEY="benchmark",
    )
    django.setup()

from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)

GROUP = "bench"


class Text(AsyncWebsocketConsumer):
    """Sends the text of each message."""

    groups = [GROUP]  # noqa: RUF012 - as Channels has it

    async def bench_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class Json(AsyncJsonWebsocketConsumer):
    """Sends each message as JSON."""

    groups = [GROUP]  # noqa: RUF012 - as Channels has it

    async def bench_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event)


class Sync(WebsocketConsumer):
    """Sends the text of each message, by synchronous code."""

    groups = [GROUP]  # noqa: RUF012 - as Channels has it

    def bench_message(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"])


class Control(AsyncWebsocketConsumer):
    """Sends each text that it receives to the group."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(GROUP, {"type": "bench.message", "text": text_data})


class ControlReady(AsyncWebsocketConsumer):
    """Sends each text that it receives to the WebSockets of the group."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.broadcast(GROUP, text=text_data)  # type: ignore[attr-defined]


_ROUTES: dict[str, Any] = {
    "/text": Text.as_asgi(),
    "/json": Json.as_asgi(),
    "/sync": Sync.as_asgi(),
    "/control": Control.as_asgi(),
    "/control-ready": ControlReady.as_asgi(),
}


async def channels_application(scope: Any, receive: Any, send: Any) -> None:
    """The consumer of each path."""
    if scope["type"] != "websocket":
        raise ValueError(f"no WebSocket but {scope['type']}")
    await _ROUTES[scope["path"]](scope, receive, send)


_sends: dict[Any, None] = {}
LIMIT = os.environ.get("BENCHMARK_LIMIT")
"""``bare`` to send each text to all; ``frames`` to write its frame to all transports, which uvicorn gives away."""


async def limit_application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """No Channels and no layer: what ``/control`` receives is sent to all others. The limit."""
    if scope["type"] != "websocket":
        raise ValueError(f"no WebSocket but {scope['type']}")
    await receive()
    await send({"type": "websocket.accept"})
    control = scope["path"].startswith("/control")
    if not control:
        _sends[send] = None
    try:
        while (message := await receive())["type"] != "websocket.disconnect":
            if control and LIMIT == "frames":
                text = message["text"].encode()
                frame = b"\x81\x7e" + len(text).to_bytes(2, "big") + text
                for to_client in list(_sends):
                    to_client.__self__.transport.write(frame)
            elif control:
                for to_client in list(_sends):
                    await to_client({"type": "websocket.send", "text": message["text"]})
    finally:
        _sends.pop(send, None)


application = limit_application if LIMIT else channels_application
"""What servers are told to serve."""
