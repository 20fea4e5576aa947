"""The people in the rooms: one consumer for each open window."""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from uuid import uuid4

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from chat.protocol import HELP, WORKER, Ask, Help, Join, Refused, Said, Say, Who, read
from django_anyio_channels import AsyncResumingMixin, ChannelLayerError, position_of

logger = logging.getLogger(__name__)

LAST = 50
"""So many of the last messages does a page show that is opened, if the channel layer keeps a history."""


class ChatConsumer(AsyncResumingMixin, AsyncWebsocketConsumer):
    """One window of the chat.

    It uses each way that a channel layer has: what is said in a room goes to a group, who comes and who goes to another
    one, the answer to "who is here?" to one consumer's own channel, and tasks for the background worker to a normal
    channel. Only what is said has a past that matters to a window that comes back.
    """

    async def connect(self) -> None:
        self.id = uuid4().hex
        self.room = self.name = ""
        await self.accept()

    @property
    def group(self) -> str:
        return f"room.{self.room}"

    @property
    def people(self) -> str:
        return f"people.{self.room}"

    @property
    def me(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name}

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            await self._act(read(text_data))
        except Refused as refused:
            await self._tell("problem", text=str(refused))
        except ChannelLayerError as error:
            await self._tell("problem", text=f"That may not have been sent: {error}")

    async def disconnect(self, code: int) -> None:
        if not self.room:
            return
        try:
            await self.channel_layer.group_discard(self.people, self.channel_name)
            await self._to_people("room.left")
        except ChannelLayerError:
            logger.warning("%s left room %s, but the room was not notified.", self.id, self.room, exc_info=True)

    async def _act(self, said: Said) -> None:
        if bool(self.room) == isinstance(said, Join):
            raise Refused("You are in a room already." if self.room else "Come into a room first.")
        match said:
            case Join():
                await self._join(said)
            case Say():
                await self._to_room("room.said", text=said.text, at=_now())
            case Ask():
                await self._ask(said)
            case Who():
                await self._who()
            case Help():
                await self._tell("help", text=HELP)

    async def _join(self, said: Join) -> None:
        self.room, self.name = said.room, said.name
        await self.channel_layer.group_add(self.people, self.channel_name)
        came = await self.resume_group(self.group, said.since, last=0 if said.since else LAST)
        await self._tell("joined", room=self.room, position=came.position, complete=came.complete, **self.me)
        await self._to_people("room.came")
        await self._who()

    async def _who(self) -> None:
        await self._to_people("room.who", reply=self.channel_name)
        await self._to_worker("task.hello", reply=self.channel_name)

    async def _ask(self, said: Ask) -> None:
        task = uuid4().hex
        await self._to_room("room.asked", text=said.text, task=task, at=_now())
        await self._to_worker(f"task.{said.task}", group=self.group, task=task, numbers=said.numbers)

    async def _to_room(self, kind: str, **content: Any) -> None:
        await self.channel_layer.group_send(self.group, {"type": kind, **self.me, **content})

    async def _to_people(self, kind: str, **content: Any) -> None:
        await self.channel_layer.group_send(self.people, {"type": kind, **self.me, **content})

    async def _to_worker(self, kind: str, **content: Any) -> None:
        try:
            await self.channel_layer.send(WORKER, {"type": kind, **content})
        except ChannelFull:
            await self._tell("worker", here=False)

    async def _tell(self, kind: str, **content: Any) -> None:
        text = json.dumps({"type": kind, **content})
        try:
            await self.send(text)
        except Exception:
            # The window may close meanwhile. Raised on, this would end the consumer before `disconnect`
            # notifies the room. ASGI 2.4 wants an OSError here; Daphne has one of its own.
            logger.debug("The window of %s has gone.", self.id, exc_info=True)

    async def room_who(self, message: dict[str, Any]) -> None:
        try:
            await self.channel_layer.send(message["reply"], {"type": "room.here", **self.me})
        except (ChannelFull, ChannelLayerError):
            logger.warning("%s could not say that it is here; it will when it is asked again.", self.id, exc_info=True)

    async def worker_here(self, message: dict[str, Any]) -> None:
        await self._tell("worker", here=True)

    async def room_came(self, message: dict[str, Any]) -> None:
        await self._pass_on(message)

    async def room_here(self, message: dict[str, Any]) -> None:
        await self._pass_on(message)

    async def room_left(self, message: dict[str, Any]) -> None:
        await self._pass_on(message)

    async def room_said(self, message: dict[str, Any]) -> None:
        await self._pass_on(message, position=position_of(message))

    async def room_asked(self, message: dict[str, Any]) -> None:
        await self._pass_on(message, position=position_of(message))

    async def room_answered(self, message: dict[str, Any]) -> None:
        await self._pass_on(message, position=position_of(message))

    async def _pass_on(self, message: dict[str, Any], **more: str | None) -> None:
        await self._tell(message.pop("type").removeprefix("room."), **message, **more)


def _now() -> int:
    """The time as pages understand it, in milliseconds."""
    return time.time_ns() // 1_000_000


class Nowhere(WebsocketConsumer):
    """Refuses a connection to an unknown path."""

    def connect(self) -> None:
        self.close()
