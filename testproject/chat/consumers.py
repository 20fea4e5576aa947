"""The people in the rooms: one consumer for each open window."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from chat.protocol import HELP, WORKER, Ask, Help, Here, Join, Refused, Said, Say, read
from django_anyio_channels import AsyncResumingMixin, ChannelLayerError, DeliveryUnknown, PresenceMixin, position_of

logger = logging.getLogger(__name__)

LAST = 50
"""How many of the last messages a newly opened page shows, if the channel layer keeps a history."""

COME_BACK = 4013
"""The close code after which a page connects again, and shows what it missed or that it missed something."""

NOT_SENT = "Message not sent. Try again in a moment."
MAYBE_SENT = "The connection broke. Your message may not have been sent."


class ChatConsumer(PresenceMixin, AsyncResumingMixin, AsyncWebsocketConsumer):
    """One window of the chat.

    It uses every way to send that a channel layer has: to a group, what is said in a room; to one consumer's own
    channel, that a worker runs; to a normal channel, tasks for the background worker. Who is in the room, the layer
    knows: a member is a name, in any number of windows.
    """

    async def connect(self) -> None:
        self.id = uuid4().hex
        self.room = self.name = ""
        await self.accept()

    @property
    def group(self) -> str:
        return f"room.{self.room}"

    @property
    def me(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name}

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            said = read(text_data)
            await self._act(said)
        except Refused as refused:
            await self._tell("problem", text=str(refused))
        except ChannelLayerError as error:
            # Addresses and other details are for the log, not for visitors.
            logger.warning("%s from %s failed: %s", type(said).__name__, self.id, error)
            if isinstance(said, Say | Ask):
                await self._tell("problem", text=MAYBE_SENT if isinstance(error, DeliveryUnknown) else NOT_SENT)
            await self._try(self.close(COME_BACK))

    async def disconnect(self, code: int) -> None:
        if not self.room:
            return
        try:
            await self.leave_presence(self.group)
        except ChannelLayerError as error:
            logger.warning("%s could not leave room %s: %s", self.id, self.room, error)

    async def _act(self, said: Said) -> None:
        if bool(self.room) == isinstance(said, Join):
            raise Refused("You are in a room already." if self.room else "Join a room first.")
        match said:
            case Join():
                await self._join(said)
            case Say():
                await self._to_room("room.said", text=said.text, at=_now())
            case Ask():
                await self._ask(said)
            case Here():
                await self._here()
            case Help():
                await self._tell("help", text=HELP)

    async def _join(self, said: Join) -> None:
        self.room, self.name = said.room, said.name
        try:
            came = await self.resume_group(self.group, said.since, last=0 if said.since else LAST)
            people = await self.join_presence(self.group, self.name)
        except ChannelLayerError:
            await self.leave_presence(self.group)  # not in the room by half
            self.room = ""
            raise
        await self._tell(
            "joined",
            room=self.room,
            position=came.position,
            complete=came.complete,
            history=came.has_history,
            people={name: len(member.metas) for name, member in people.items()},
            **self.me,
        )
        await self._to_worker("task.hello", reply=self.channel_name)

    async def _here(self) -> None:
        """Answer through the broker, so that silence means that either is away."""
        await self.channel_layer.send(self.channel_name, {"type": "room.here"})
        await self._to_worker("task.hello", reply=self.channel_name)

    async def _ask(self, said: Ask) -> None:
        task = uuid4().hex
        await self._to_room("room.asked", text=said.text, task=task, at=_now())
        await self._to_worker(f"task.{said.task}", group=self.group, task=task, numbers=said.numbers)

    async def _to_room(self, kind: str, **content: Any) -> None:
        await self.channel_layer.group_send(self.group, {"type": kind, **self.me, **content})

    async def _to_worker(self, kind: str, **content: Any) -> None:
        try:
            await self.channel_layer.send(WORKER, {"type": kind, **content})
        except ChannelFull:
            await self._tell("worker", here=False)

    async def _tell(self, kind: str, **content: Any) -> None:
        await self._try(self.send(json.dumps({"type": kind, **content})))

    async def _try(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except Exception:
            # The window may close meanwhile. Raised on, this would end the consumer before `disconnect`
            # notifies the room. ASGI 2.4 wants an OSError here; Daphne has one of its own.
            logger.debug("The window of %s has gone.", self.id, exc_info=True)

    async def worker_here(self, message: dict[str, Any]) -> None:
        await self._tell("worker", here=True)

    async def member_joined(self, event: dict[str, Any]) -> None:
        await self._tell("came", name=event["member"], windows=len(event["metas"]))

    member_updated = member_joined

    async def member_left(self, event: dict[str, Any]) -> None:
        await self._tell("left", name=event["member"])

    async def room_here(self, message: dict[str, Any]) -> None:
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
