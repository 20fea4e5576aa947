"""starlette_web's layer for MQTT.

It wants an older anyio than this project, and a web framework. So it is installed into a folder of its own, without
what it asks for but does not use here, and only the process that measures it looks there. Its layer runs on the newest
anyio and gmqtt as it is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, cast

from ...harness.contenders import Contender, Layer, Message
from .peers import HOST

WANTED = "starlette-web==0.1.10"
_FOLDER = Path(__file__).resolve().parents[3] / ".envs" / WANTED
_PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]
_PROBE: Message = {"type": "probe"}


def install() -> None:
    """Fetch the package, once for each checkout."""
    if not (_FOLDER / "httpx").exists():
        subprocess.run([*_PIP, _FOLDER, "--no-deps", WANTED], check=True)
        subprocess.run([*_PIP, _FOLDER, "httpx<0.28"], check=True)


class StarletteWeb:
    """starlette_web's ``MQTTChannelLayer`` under its ``Channel``: each member of a group is a subscriber of its own.

    It subscribes at QoS 0 whatever it is told, and does not say when the broker has confirmed that.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._channel: Any = None
        self._numbers = count()
        self._groups: set[str] = set()
        self._subscriptions: dict[str, AsyncExitStack] = {}
        self._events: dict[str, AsyncIterator[Any]] = {}

    async def new_channel(self) -> str:
        if self._channel is None:
            sys.path.append(str(_FOLDER))
            layers = import_module("starlette_web.contrib.mqtt.channel_layers")
            channels = import_module("starlette_web.common.channels.base")
            self._channel = channels.Channel(layers.MQTTChannelLayer(host=HOST, port=self._port))
            await self._channel.__aenter__()
        return f"member{next(self._numbers)}"

    async def group_add(self, group: str, channel: str) -> None:
        self._subscriptions[channel] = AsyncExitStack()
        subscriber = await self._subscriptions[channel].enter_async_context(self._channel.subscribe(group))
        events = self._events[channel] = aiter(subscriber)
        if group not in self._groups:
            self._groups.add(group)
            received = asyncio.ensure_future(anext(events))
            while not received.done():
                await self.group_send(group, _PROBE)
                await asyncio.wait([received], timeout=0.01)

    async def group_discard(self, group: str, channel: str) -> None:
        await self._subscriptions.pop(channel).aclose()

    async def group_send(self, group: str, message: Message) -> None:
        await self._channel.publish(group, message)

    async def send(self, channel: str, message: Message) -> None:
        await self.group_send(channel, message)

    async def receive(self, channel: str) -> Message:
        events = self._events[channel]
        while (message := cast(Message, (await anext(events)).message)) == _PROBE:
            pass  # sent more often than needed, to find out when it listens
        return message

    async def close(self) -> None:
        """End it in the task that called `new_channel` first."""
        for subscription in self._subscriptions.values():
            await subscription.aclose()
        await self._channel.__aexit__(None, None, None)


async def _close(layer: Layer) -> None:
    await cast(StarletteWeb, layer).close()


def starlette_web(name: str, port: int) -> Contender:
    """`StarletteWeb` as a contender."""
    return Contender(name, lambda: StarletteWeb(port), _close)
