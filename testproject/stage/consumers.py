"""The panel of one window: what its buttons do, and the numbers that it shows."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import transaction

from chat.consumers import ChatConsumer
from django_anyio_channels import ChannelLayerError, ResumableConsumer, get_channel_layer
from stage.jobs import GROUP, JOBS, for_panels
from stage.models import Post

PULSE = "stage.pulse"
"""A group of all panels; a message to it shows what a message costs."""


class Chat(ChatConsumer):
    """A window of the chat, whose messages survive a broker that is killed while they are on their way."""

    accept_once = settings.ACKNOWLEDGES


class Stage(ResumableConsumer):
    """Buttons that break something, a job, a transaction, and the layer's own numbers."""

    async def connect(self) -> None:
        self._lag = 0.0, 0
        await self.channel_layer.group_add(PULSE, self.channel_name)
        await self.accept()

    async def may_join(self, group: str) -> bool:
        return group == GROUP

    async def received(self, message: Any, group: str | None) -> None:
        answer: dict[str, Any] = {}
        try:
            match message:
                case {"ask": "numbers", "room": str(room)}:
                    answer = {"numbers": await self._numbers(room)}
                case {"kill": str(name)}:
                    answer = {"killed": settings.STAGE_CONTROL is not None and await kill(name)}
                case {"job": str(id)}:
                    await self.channel_layer.send(JOBS, {"type": "stage.job", "id": id[:40]})
                case {"post": str(text), "commit": bool(commit)}:
                    await post(text[:200], commit)
                    answer = {"ended": {"commit": commit, "rows": await Post.objects.acount()}}
                case _:
                    await self.refuse("invalid_message", "the panel has no such button", group)
        except (ChannelLayerError, OSError) as error:
            answer = {"problem": type(error).__name__}
        if answer:
            await self.push({"group": GROUP}, answer)

    async def stage_pulse(self, message: Any) -> None:
        """Do nothing: the layer has measured the message."""

    async def _numbers(self, room: str) -> dict[str, Any] | None:
        """Return what one message costs, how long messages take, and who is in the room; None without a broker."""
        layer: Any = self.channel_layer
        before = layer.statistics()
        if before["disconnected"]:
            return None
        await layer.group_send(PULSE, {"type": "stage.pulse"})
        after, lag = layer.statistics(), layer.measurements().lag
        (seconds, count), self._lag = self._lag, (lag.sum, lag.count)
        here = await layer.group_count(f"room.{room}")
        return {
            "cost": after["published"] - before["published"],
            "lag": 1000 * (lag.sum - seconds) / max(1, lag.count - count),
            "windows": here.channels,
            "names": here.members,
            "outages": after["outages"],
        }


class Devices(ResumableConsumer):
    """The lamp and the thermometer, which know nothing of Channels: a group is a topic of theirs."""

    channel_layer_alias = "devices"

    async def may_join(self, group: str) -> bool:
        return group in {"lamp", "thermometer"}

    async def mqtt_message(self, event: Any) -> None:
        await self.push({**event, "group": event["topic"].removeprefix("home/")}, event["payload"])

    async def received(self, message: Any, group: str | None) -> None:
        payload = {"on": message is True}
        await self.channel_layer.group_send("lamp.set", {"type": "mqtt.message", "payload": payload})


@sync_to_async
def post(text: str, commit: bool) -> None:
    """Write a line and send it in one transaction, and end that."""
    layer = get_channel_layer()
    with transaction.atomic():
        Post.objects.create(text=text)
        if settings.ON_POSTGRESQL:
            layer.in_transaction().group_send_sync(GROUP, for_panels(posted=text))
        else:
            transaction.on_commit(lambda: layer.group_send_sync(GROUP, for_panels(posted=text)))
        transaction.set_rollback(not commit)


async def kill(name: str) -> bool:
    """Have the supervisor kill a process of the stage, and return whether it did."""
    reader, writer = await asyncio.open_unix_connection(settings.STAGE_CONTROL)
    writer.write(f"{os.environ['STAGE_TOKEN']} {name[:40]}\n".encode())
    answer = await reader.readline()
    writer.close()
    return bool(answer)
