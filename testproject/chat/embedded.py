"""Channels' worker inside the server process, for a channel layer that doesn't leave the process."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from channels.layers import get_channel_layer
from channels.worker import Worker

logger = logging.getLogger(__name__)


class EmbeddedWorker:
    """An ASGI application that runs a worker beside the one it wraps, in the same event loop.

    The worker starts with the first WebSocket, because Daphne tells an application neither when it starts nor when
    it stops. It ends with the event loop.
    """

    def __init__(self, application: Any, channels: list[str]) -> None:
        self._application = application
        self._channels = channels
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket" and (self._task is None or self._task.done()):
            layer: Any = get_channel_layer()
            worker: Any = Worker(self._application, self._channels, layer)
            self._task = asyncio.create_task(worker.arun(), name=f"worker for {', '.join(self._channels)}")
            self._task.add_done_callback(_report)
        await self._application(scope, receive, send)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("The %s failed; the next connection starts another one.", task.get_name(), exc_info=error)
