"""Who is measured: anything with the verbs of a channel layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, cast
from uuid import uuid4

import msgspec

Message = dict[str, Any]


class Layer(Protocol):
    """The verbs that are measured."""

    async def send(self, channel: str, message: Message) -> None: ...

    def receive(self, channel: str) -> Coroutine[Any, Any, Message]: ...

    async def new_channel(self) -> str: ...

    async def group_add(self, group: str, channel: str) -> None: ...

    async def group_discard(self, group: str, channel: str) -> None: ...

    async def group_send(self, group: str, message: Message) -> None: ...


@dataclass(frozen=True)
class Connections:
    """What a broker says of its clients."""

    now: int
    """Open now."""
    ever: int
    """Opened since the broker's start."""


async def _nothing(layer: Layer) -> None:
    """Most layers need no closing before their process ends."""


@dataclass(frozen=True)
class Contender:
    """A name in the tables, and how to get a layer of that kind.

    ``make`` is called in each process and thread that needs one; no event loop need be running. ``close`` is awaited
    in the loop that used the layer. ``connections`` asks the broker, if there is one, from outside of what is measured.
    """

    name: str
    make: Callable[[], Layer]
    close: Callable[[Layer], Awaitable[None]] = _nothing
    connections: Callable[[], Connections] | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Layer, None]:
        """A layer for the running event loop."""
        layer = self.make()
        try:
            yield layer
        finally:
            await self.close(layer)


def ours(name: str = "ours", *, connections: Callable[[], Connections] | None = None, **config: Any) -> Contender:
    """This package's `AnyioChannelLayer` with such a ``CONFIG``."""
    from django_anyio_channels import AnyioChannelLayer

    async def close(layer: Layer) -> None:
        await cast(AnyioChannelLayer, layer).close()

    return Contender(name, lambda: AnyioChannelLayer(**config), close, connections)


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


def channels_redis_core(name: str, url: str, connections: Callable[[], Connections]) -> Contender:
    """``channels_redis.core``: lists and sorted sets, one entry for each member of a group.

    What it delivers twice would fill a mailbox of the usual capacity.
    """
    from channels_redis.core import RedisChannelLayer

    async def close(layer: Layer) -> None:
        await cast(RedisChannelLayer, layer).close_pools()

    return Contender(name, lambda: cast(Layer, RedisChannelLayer(hosts=[url], capacity=10_000)), close, connections)


def channels_redis_pubsub(name: str, url: str, connections: Callable[[], Connections]) -> Contender:
    """``channels_redis.pubsub``: one subscription for each channel and group."""
    from channels_redis.pubsub import RedisPubSubChannelLayer

    async def close(layer: Layer) -> None:
        await cast(RedisPubSubChannelLayer, layer).flush()

    return Contender(name, lambda: cast(Layer, RedisPubSubChannelLayer(hosts=[url])), close, connections)


class BareRedisPy:
    """What redis-py does at best: ``PUBLISH``, one reader of one connection, a queue a member, no limits or checks.

    Normal channels are lists.
    """

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis

        self._client = Redis.from_url(url, socket_timeout=None)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        self._queues: dict[str, asyncio.Queue[bytes]] = {}
        self._members: dict[str, list[asyncio.Queue[bytes]]] = {}
        self._numbers = count()
        self._node = uuid4().hex
        self._reader: asyncio.Task[None] | None = None

    async def send(self, channel: str, message: Message) -> None:
        packed = msgspec.msgpack.encode(message)
        if "!" in channel:
            await self._client.publish(channel, packed)
        else:
            await self._client.rpush(channel, packed)

    async def receive(self, channel: str) -> Message:
        if "!" in channel:
            packed = await self._queues[channel].get()
        else:
            packed = cast("tuple[bytes, bytes]", await self._client.blpop([channel]))[1]
        return cast(Message, msgspec.msgpack.decode(packed))

    async def new_channel(self) -> str:
        name = f"{self._node}!{next(self._numbers)}"
        self._queues[name] = asyncio.Queue()
        await self.group_add(name, name)
        return name

    async def group_add(self, group: str, channel: str) -> None:
        if group not in self._members:
            self._members[group] = []
            await self._pubsub.subscribe(group)
            if self._reader is None:
                self._reader = asyncio.create_task(self._read())
        self._members[group].append(self._queues[channel])

    async def group_discard(self, group: str, channel: str) -> None:
        self._members[group].remove(self._queues[channel])
        if not self._members[group]:
            del self._members[group]
            await self._pubsub.unsubscribe(group)

    async def group_send(self, group: str, message: Message) -> None:
        await self._client.publish(group, msgspec.msgpack.encode(message))

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._client.aclose()

    async def _read(self) -> None:
        async for event in self._pubsub.listen():
            for queue in self._members.get(event["channel"].decode(), ()):
                queue.put_nowait(event["data"])


def bare_redis_py(name: str, url: str, connections: Callable[[], Connections]) -> Contender:
    """`BareRedisPy` as a contender."""

    async def close(layer: Layer) -> None:
        await cast(BareRedisPy, layer).close()

    return Contender(name, lambda: BareRedisPy(url), close, connections)
