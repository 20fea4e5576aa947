"""The people in the rooms: one consumer for each open window."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from channels.exceptions import ChannelFull
from channels.generic.websocket import WebsocketConsumer
from django.conf import settings

from chat.protocol import HELP, ROOM, WORKER, Ask, Help, Look, Refused, Say, name_of, read
from django_anyio_channels import ChannelLayerError, DeliveryUnknown, ResumableConsumer

logger = logging.getLogger(__name__)

NOT_SENT = "Message not sent. Try again in a moment."
MAYBE_SENT = "The connection broke. Your message may not have been sent."


class ChatConsumer(ResumableConsumer):
    """One window of the chat.

    It uses every way to send that a channel layer has: to a group, what is said in a room; to one consumer's own
    channel, that a worker runs; to a normal channel, tasks for the background worker. `ResumableConsumer` does the
    rest: it lets windows in, knows who is in the room, and sends those that come back what they missed.
    """

    max_groups = 1
    max_last = 50
    accept_once = False
    """Whether the layer may repeat what was perhaps sent; with a history, or pages would wait for what they missed."""

    async def authenticate(self, token: str | None) -> bool:
        """Take the token for a name: nobody has an account here."""
        self.name = name_of(token)
        return self.name != ""

    async def may_join(self, group: str) -> bool:
        return re.fullmatch(rf"room\.{ROOM}", group) is not None

    async def presence_of(self, group: str) -> str:
        """A member is a name, in any number of windows."""
        return self.name

    async def received(self, message: Any, group: str | None) -> None:
        message_id = message.get("id") if isinstance(message, dict) else None
        try:
            await self._act(read(message), message_id, group)
        except Refused as refused:
            await self.refuse("refused", str(refused), group, message_id)
        except ChannelLayerError as error:
            # Addresses and other details are for the log, not for visitors.
            logger.warning("A message of %s was not sent: %s", self.name, error)
            why = MAYBE_SENT if isinstance(error, DeliveryUnknown) else NOT_SENT
            await self.refuse("not_sent", why, group, message_id)
            raise  # so that the window comes back

    async def _act(self, said: Say | Ask | Help | Look, message_id: Any, group: str | None) -> None:
        if group is None:
            raise Refused("Join a room first.")
        match said:
            case Say(text):
                await self._to_room(group, "room.said", message_id, text)
            case Ask(text, task, numbers):
                await self._to_room(group, "room.asked", message_id, text)
                await self._to_worker(f"task.{task}", group=group, id=message_id, numbers=numbers)
            case Help():
                await self.tell({"type": "help", "id": message_id, "text": HELP})
            case Look():
                await self._to_worker("task.hello", reply=self.channel_name)

    async def _to_room(self, group: str, kind: str, message_id: str, text: str) -> None:
        now = time.time_ns() // 1_000_000  # milliseconds, as pages understand it
        message = {"type": kind, "id": message_id, "name": self.name, "text": text, "at": now}
        layer: Any = self.channel_layer
        once = {"idempotency_key": f"{message_id} {self.name}"} if self.accept_once else {}
        await layer.group_send(group, message, **once)

    async def _to_worker(self, kind: str, **content: Any) -> None:
        try:
            await self.channel_layer.send(WORKER, {"type": kind, **content})
        except ChannelFull:
            await self.tell({"type": "worker.away"})

    async def room_said(self, message: dict[str, Any]) -> None:
        """Pass on what comes from the room, with the name of the server that does so."""
        await self.push(message, {**message, "server": settings.SERVER_NAME})

    room_asked = room_answered = room_said

    async def worker_here(self, message: dict[str, Any]) -> None:
        await self.tell(message)


class Nowhere(WebsocketConsumer):
    """Refuses a connection to an unknown path."""

    def connect(self) -> None:
        self.close()
