"""A background worker inside the server process, for a channel layer that doesn't leave the process."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from channels.layers import get_channel_layer

logger = logging.getLogger(__name__)


class EmbeddedWorker:
    """An ASGI application that does what ``runworker`` does beside the one it wraps, in the same event loop.

    It works while at least one WebSocket is open. Tying it to them is what ends it in time when the server stops,
    because Daphne ends the connections but does not tell an application when it starts or stops.
    """

    def __init__(self, application: Any, channels: list[str]) -> None:
        self._application = application
        self._channels = channels
        self._open = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await self._application(scope, receive, send)
            return
        self._open += 1
        try:
            if self._open == 1:
                self._tasks = [asyncio.create_task(self._work(channel)) for channel in self._channels]
            await self._application(scope, receive, send)
        finally:
            self._open -= 1
            if self._open == 0:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)

    async def _work(self, channel: str) -> None:
        layer: Any = get_channel_layer()
        while True:
            try:
                await self._application({"type": "channel", "channel": channel}, partial(layer.receive, channel), _send)
            except Exception:
                logger.exception("The worker of %s failed; it starts again in a second.", channel)
                await asyncio.sleep(1)


async def _send(message: Any) -> None:
    raise ValueError(f"There is no client to send this to: {message!r}")
