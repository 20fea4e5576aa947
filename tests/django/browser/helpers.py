"""What the tests of browsers' connections share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

PATIENCE = 20


class Client:
    """A client of the protocol."""

    def __init__(self, socket: WebsocketCommunicator) -> None:
        self.socket = socket

    async def send(self, kind: str, **content: Any) -> None:
        await self.socket.send_json_to({"type": kind, **content})

    async def receive(self) -> Any:
        return await self.socket.receive_json_from(PATIENCE)

    async def ask(self, kind: str, **content: Any) -> Any:
        """Send a frame and return the answer."""
        await self.send(kind, **content)
        return await self.receive()

    async def closed(self) -> Any:
        """Return the code with which the server closes the connection."""
        event = await self.socket.receive_output(PATIENCE)
        assert event["type"] == "websocket.close"
        return event["code"]


@asynccontextmanager
async def client(consumer: Any, *, hello: bool = True) -> AsyncIterator[Client]:
    socket = WebsocketCommunicator(consumer.as_asgi(), "/")
    assert (await socket.connect(PATIENCE))[0]
    opened = Client(socket)
    if hello:
        assert await opened.ask("hello", version=1) == {"type": "hello", "version": 1}
    yield opened
    await socket.disconnect(timeout=PATIENCE)


@asynccontextmanager
async def default_layer(layer: Any) -> AsyncIterator[Any]:
    before = channel_layers.set("default", layer)
    try:
        yield layer
    finally:
        channel_layers.set("default", before)  # type: ignore[arg-type]
        await layer.close()
