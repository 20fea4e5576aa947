"""Consumers that tell their clients what they were handed, and in which trace."""

from __future__ import annotations

import json
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from opentelemetry import trace

GROUP = "observed"


def _reply(message: dict[str, Any]) -> str:
    context = trace.get_current_span().get_span_context()
    return json.dumps({**message, "span": f"{context.span_id:x}" if context.is_valid else None})


class Async(AsyncWebsocketConsumer):
    groups = [GROUP]

    async def chat_message(self, message: dict[str, Any]) -> None:
        await self.send(_reply(message))


class Sync(WebsocketConsumer):
    groups = [GROUP]

    def chat_message(self, message: dict[str, Any]) -> None:
        self.send(_reply(message))


KINDS = {"async": Async, "sync": Sync}
