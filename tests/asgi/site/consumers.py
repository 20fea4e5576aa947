"""One consumer of each kind. They speak the same JSON, so that a test can mix them.

What a client sends                 what happens
``{"do": "say", "text": ...}``      everyone gets ``{"said": ..., "by": kind}``
``{"do": "name"}``                  it gets ``{"name": ...}``, the name of its own channel
``{"do": "direct", "to": ..., "text": ...}``      the channel's owner gets ``{"direct": ..., "by": kind}``
``{"do": "square", "number": ...}`` a background worker squares it: ``{"squared": ..., "process": ...}``
``{"do": "close"}``                 everyone's WebSocket is closed with the code 4009
``{"do": "end"}``                   the consumer stops itself
``{"do": "settled"}``               it gets ``{"settled": ...}``, whether the server can stop by now, see `settled`
"""

from __future__ import annotations

import gc
import json
import os
from typing import Any

import daphne.server
from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)

from django_anyio_channels import AsyncResumingMixin, ResumingMixin

EVERYONE = "everyone"
GROUPS = [EVERYONE]
JOBS = "jobs"


def _send(layer: Any, channel: str, kind: str, wish: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The calls of the channel layer that fulfil a wish: a verb and its arguments."""
    match wish["do"]:
        case "say":
            return [(layer.group_send, EVERYONE, {"type": "everyone.said", "said": wish["text"], "by": kind})]
        case "close":
            return [(layer.group_close, EVERYONE, 4009)]
        case "direct":
            return [(layer.send, wish["to"], {"type": "channel.direct", "direct": wish["text"], "by": kind})]
        case "square":
            return [(layer.send, JOBS, {"type": "square", "number": wish["number"], "reply": channel})]
    return []


def _content(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "type"}


def settled() -> bool:
    """Whether Daphne has forgotten the HTTP requests that the WebSockets began as.

    It does so within a second; stopped before, its ``kill_all_applications`` fails with KeyError and leaves the
    consumers' tasks to the interpreter's end.
    """
    servers = [each for each in gc.get_objects() if isinstance(each, daphne.server.Server)]
    return all("application_instance" in details for each in servers for details in each.connections.values())


class Async(AsyncWebsocketConsumer):
    groups = GROUPS

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        assert text_data is not None
        wish = json.loads(text_data)
        if wish["do"] == "name":
            await self.send(json.dumps({"name": self.channel_name}))
        if wish["do"] == "settled":
            await self.send(json.dumps({"settled": settled()}))
        if wish["do"] == "end":
            await self.close()
        for verb, *arguments in _send(self.channel_layer, self.channel_name, "async", wish):
            await verb(*arguments)

    async def everyone_said(self, message: dict[str, Any]) -> None:
        await self.send(json.dumps(_content(message)))

    channel_direct = squared = everyone_said


class Sync(WebsocketConsumer):
    groups = GROUPS

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        assert text_data is not None
        wish = json.loads(text_data)
        if wish["do"] == "name":
            self.send(json.dumps({"name": self.channel_name}))
        if wish["do"] == "end":
            self.close()
        for verb, *arguments in _send(self.channel_layer, self.channel_name, "sync", wish):
            async_to_sync(verb)(*arguments)

    def everyone_said(self, message: dict[str, Any]) -> None:
        self.send(json.dumps(_content(message)))

    channel_direct = squared = everyone_said


class AsyncJson(AsyncJsonWebsocketConsumer):
    groups = GROUPS

    async def receive_json(self, content: Any, **_: Any) -> None:
        if content["do"] == "name":
            await self.send_json({"name": self.channel_name})
        if content["do"] == "end":
            await self.close()
        for verb, *arguments in _send(self.channel_layer, self.channel_name, "async-json", content):
            await verb(*arguments)

    async def everyone_said(self, message: dict[str, Any]) -> None:
        await self.send_json(_content(message))

    channel_direct = squared = everyone_said


class SyncJson(JsonWebsocketConsumer):
    groups = GROUPS

    def receive_json(self, content: Any, **_: Any) -> None:
        if content["do"] == "name":
            self.send_json({"name": self.channel_name})
        if content["do"] == "end":
            self.close()
        for verb, *arguments in _send(self.channel_layer, self.channel_name, "sync-json", content):
            async_to_sync(verb)(*arguments)

    def everyone_said(self, message: dict[str, Any]) -> None:
        self.send_json(_content(message))

    channel_direct = squared = everyone_said


class AsyncResuming(AsyncResumingMixin, Async):
    """Closed by the mixin, because messages are missing; ``close()`` itself may fail, too."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.group_missed({"type": "group.missed", "group": EVERYONE})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_send(EVERYONE, {"type": "everyone.said", "said": code, "by": "async"})


class SyncResuming(ResumingMixin, Sync):
    """The same."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.group_missed({"type": "group.missed", "group": EVERYONE})

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_send)(EVERYONE, {"type": "everyone.said", "said": code, "by": "sync"})


class Worker(SyncConsumer):
    """Runs under ``runworker jobs``."""

    def square(self, message: dict[str, Any]) -> None:
        answer = {"type": "squared", "squared": message["number"] ** 2, "process": os.getpid()}
        async_to_sync(self.channel_layer.send)(message["reply"], answer)


KINDS: dict[str, Any] = {"async": Async, "sync": Sync, "async-json": AsyncJson, "sync-json": SyncJson}
"""The consumers by the paths at which they are served."""

RESUMING: dict[str, Any] = {"async-resuming": AsyncResuming, "sync-resuming": SyncResuming}
"""Consumers that end as soon as they are spoken to, served likewise."""
