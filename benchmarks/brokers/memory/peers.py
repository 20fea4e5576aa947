"""Other layers for one process: Channels' own, and the least that asyncio needs."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import cast

from ...harness.contenders import Contender, Layer, Message


def channels_in_memory(name: str = "channels") -> Contender:
    """Channels' own layer for one process. It encodes nothing; it copies each message for each member."""
    from channels.layers import InMemoryChannelLayer

    return Contender(name, lambda: cast(Layer, InMemoryChannelLayer()))


class BareQueues:
    """What asyncio can do at best: one queue a member, no encoding, no copies, no limits, no checks."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[Message]] = {}
        self._groups: dict[str, dict[str, asyncio.Queue[Message]]] = {}
        self._numbers = count()

    async def send(self, channel: str, message: Message) -> None:
        self._queue(channel).put_nowait(message)

    async def receive(self, channel: str) -> Message:
        return await self._queue(channel).get()

    async def new_channel(self) -> str:
        return f"bare!{next(self._numbers)}"

    async def group_add(self, group: str, channel: str) -> None:
        self._groups.setdefault(group, {})[channel] = self._queue(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        members = self._groups[group]
        del members[channel], self._queues[channel]
        if not members:
            del self._groups[group]

    async def group_send(self, group: str, message: Message) -> None:
        for queue in self._groups.get(group, {}).values():
            queue.put_nowait(message)

    def _queue(self, channel: str) -> asyncio.Queue[Message]:
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = asyncio.Queue()
        return queue


def bare_queues(name: str = "bare queues") -> Contender:
    """`BareQueues` as a contender."""
    return Contender(name, BareQueues)
