"""Who else carries messages over Redis: both layers of channels_redis, and redis-py with as little as can be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ...harness.bare import BareClient, bare
from ...harness.contenders import Connections, Contender, Layer, Message

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

Counter = Callable[[], Connections]


def channels_redis_core(name: str, url: str, connections: Counter | None = None) -> Contender:
    """``channels_redis.core``: lists and sorted sets, one entry for each member of a group.

    What it delivers twice would fill a mailbox of the usual capacity.
    """
    from channels_redis.core import RedisChannelLayer

    async def close(layer: Layer) -> None:
        await cast(RedisChannelLayer, layer).close_pools()

    return Contender(name, lambda: cast(Layer, RedisChannelLayer(hosts=[url], capacity=10_000)), close, connections)


def channels_redis_pubsub(name: str, url: str, connections: Counter | None = None) -> Contender:
    """``channels_redis.pubsub``: one subscription for each channel and group."""
    from channels_redis.pubsub import RedisPubSubChannelLayer

    async def close(layer: Layer) -> None:
        await cast(RedisPubSubChannelLayer, layer).flush()

    return Contender(name, lambda: cast(Layer, RedisPubSubChannelLayer(hosts=[url])), close, connections)


class BareRedisPy(BareClient):
    """What redis-py does at best: ``PUBLISH``, and one reader of one connection. Normal channels are lists."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._client: Redis
        self._pubsub: PubSub
        self._reader: asyncio.Task[None] | None = None

    async def send(self, channel: str, message: Message) -> None:
        if "!" in channel:
            await super().send(channel, message)
        else:
            await self.connected()
            await self._client.rpush(channel, self.encode(message))

    async def receive(self, channel: str) -> Message:
        if "!" in channel:
            return await super().receive(channel)
        await self.connected()
        _, packed = cast("tuple[bytes, bytes]", await self._client.blpop([channel]))
        return cast(Message, self.decode(packed))

    async def connect(self) -> None:
        from redis.asyncio import Redis

        self._client = Redis.from_url(self._url, socket_timeout=None)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)

    async def subscribe(self, topic: str) -> None:
        await self._pubsub.subscribe(topic)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())

    async def unsubscribe(self, topic: str) -> None:
        await self._pubsub.unsubscribe(topic)

    async def publish(self, topic: str, payload: Any) -> None:
        await self._client.publish(topic, payload)

    async def disconnect(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._client.aclose()

    async def _read(self) -> None:
        async for event in self._pubsub.listen():
            self.arrive(event["channel"].decode(), event["data"])


def bare_redis_py(name: str, url: str, connections: Counter | None = None) -> Contender:
    """`BareRedisPy` as a contender."""
    return bare(name, lambda: BareRedisPy(url), connections)
