"""Ready frames: what is encoded once, by the sender, and sent to each WebSocket of a group as it is."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable
from typing import Any

from channels.consumer import SyncConsumer

FRAME = "websocket.broadcast"
"""The type of the message. A consumer's method ``websocket_broadcast`` gets it in place of the WebSocket."""
HANDLER = "websocket_broadcast"


def to_asgi(message: dict[str, Any]) -> dict[str, Any] | None:
    """Return what ASGI sends for the message of a ready frame, or None if it isn't one."""
    text, data = message.get("text"), message.get("bytes")
    if isinstance(text, str):
        return {"type": "websocket.send", "text": text}
    return {"type": "websocket.send", "bytes": data} if isinstance(data, bytes) else None


def is_websocket(consumer: Any) -> bool:
    """Return whether a consumer has a WebSocket."""
    return bool(getattr(consumer, "scope", {}).get("type") == "websocket")


class FrameHandler:
    """Sends a ready frame to the WebSocket of a consumer, synchronous or not."""

    __slots__ = ("_consumer",)

    def __init__(self, consumer: Any) -> None:
        self._consumer = weakref.ref(consumer)  # which this may be an attribute of

    def __call__(self, message: Any) -> Awaitable[None] | None:
        consumer: Any = self._consumer()
        frame: Any = to_asgi(message)
        if frame is None:
            raise ValueError(f"A message of the type {FRAME} has a text or bytes, but this one has {sorted(message)}")
        if isinstance(consumer, SyncConsumer):
            consumer.base_send(frame)
            return None
        return consumer.base_send(frame)  # type: ignore[no-any-return]
