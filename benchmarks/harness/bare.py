"""The least that a client library needs around it to be a layer: what the bare contenders have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any, cast
from uuid import uuid4

import msgspec

from .contenders import Connections, Contender, Layer, Message

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class BareClient(ABC):
    """One connection or two, a topic for each group and each channel, a queue for each member; no limits, no checks.

    A subclass has the library's verbs; it calls `arrive` with each message. ``encode`` and ``decode`` are for a library
    that wants something else than MessagePack.
    """

    def __init__(
        self,
        encode: Callable[[Message], Any] = _pack,
        decode: Callable[[Any], Any] = _unpack,
    ) -> None:
        self.encode = encode
        self.decode = decode
        self._queues: dict[str, asyncio.Queue[Any]] = {}
        self._members: dict[str, list[asyncio.Queue[Any]]] = {}
        self._numbers = count()
        self._node = uuid4().hex
        self._connecting = asyncio.Lock()
        self._is_connected = False

    # ---- the library's part -------------------------------------------------------------------------------------

    @abstractmethod
    async def connect(self) -> None:
        """Open the connections."""

    @abstractmethod
    async def subscribe(self, topic: str) -> None:
        """Have what is published to a topic given to `arrive`; returns when that is so."""

    @abstractmethod
    async def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`."""

    @abstractmethod
    async def publish(self, topic: str, payload: Any) -> None:
        """Publish what `encode` made."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Close what `connect` opened."""

    # ---- the layer's part ---------------------------------------------------------------------------------------

    def arrive(self, topic: str, payload: Any) -> None:
        """Hand a message out."""
        for queue in self._members.get(topic, ()):
            queue.put_nowait(payload)

    async def send(self, channel: str, message: Message) -> None:
        await self.group_send(channel, message)

    async def receive(self, channel: str) -> Message:
        return cast(Message, self.decode(await self._queues[channel].get()))

    async def new_channel(self) -> str:
        name = f"{self._node}!{next(self._numbers)}"
        self._queues[name] = asyncio.Queue()
        await self.group_add(name, name)
        return name

    async def group_add(self, group: str, channel: str) -> None:
        members = self._members.setdefault(group, [])
        members.append(self._queues[channel])
        if len(members) == 1:
            await self.connected()
            await self.subscribe(group)

    async def group_discard(self, group: str, channel: str) -> None:
        members = self._members[group]
        members.remove(self._queues[channel])
        if not members:
            del self._members[group]
            await self.unsubscribe(group)

    async def group_send(self, group: str, message: Message) -> None:
        await self.connected()
        await self.publish(group, self.encode(message))

    async def connected(self) -> None:
        """Connect, if nobody has."""
        if not self._is_connected:
            async with self._connecting:
                if not self._is_connected:
                    await self.connect()
                    self._is_connected = True

    async def close(self) -> None:
        if self._is_connected:
            await self.disconnect()


def bare(name: str, make: Callable[[], BareClient], connections: Callable[[], Connections] | None = None) -> Contender:
    """A bare client as a contender."""

    async def close(layer: Layer) -> None:
        await cast(BareClient, layer).close()

    return Contender(name, make, close, connections)
