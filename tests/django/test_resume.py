"""`django.resume`: how the mixins end a consumer whose browser must come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import StopConsumer

from django_anyio_channels import AsyncResumingMixin, ResumingMixin

MISSED = {"type": "group.missed", "group": "room"}
GONE = {"type": "websocket.disconnect", "code": 4013}


class Sync(ResumingMixin):
    """A consumer whose browser has gone, so that nothing can be closed."""

    def __init__(self) -> None:
        self.disconnects: list[dict[str, Any]] = []

    def close(self, code: int) -> None:
        raise RuntimeError("the browser has gone")

    def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self.disconnects.append(message)
        raise StopConsumer


class Async(AsyncResumingMixin):
    """The same."""

    def __init__(self) -> None:
        self.disconnects: list[dict[str, Any]] = []

    async def close(self, code: int) -> None:
        raise RuntimeError("the browser has gone")

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self.disconnects.append(message)
        raise StopConsumer


def test_a_consumer_disconnects_though_closing_fails() -> None:
    sync_consumer, async_consumer = Sync(), Async()
    with pytest.raises(StopConsumer):
        sync_consumer.group_missed(MISSED)
    with pytest.raises(StopConsumer):
        asyncio.run(async_consumer.group_missed(MISSED))
    assert sync_consumer.disconnects == async_consumer.disconnects == [GONE]
