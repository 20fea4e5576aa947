"""Redis and Valkey: topics by publish/subscribe, queues as lists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

try:
    import hiredis
    import redis  # noqa: F401
except ImportError as error:
    from ...core.exceptions import MissingDriver

    raise MissingDriver("Redis needs redis-py and hiredis: pip install django-anyio-channels[redis]") from error

from ...core.events import BoundQueue, Event, PublishResult
from ...core.exceptions import DeliveryUnknown, ListenerClosed, PayloadTooLarge, QueueFull
from ...core.layer import BaseChannelLayer
from ...core.stats import RateLimitedLogger
from .address import Address
from .cluster.discovery import ClusterAddress, is_cluster
from .cluster.session import ClusterLife, Presences
from .peers import Presence
from .queues import Queues
from .scripts import BIND, PUT, bindings, bound_groups, is_terms, queue_of_bound_groups, root, waiting
from .session import Life, ServerLife, checked
from .subscriptions import Subscriptions

LARGEST_MESSAGE = 512 * 1024 * 1024 - 1024
"""Bytes; Redis' own limit for a string."""


class RedisPubSubChannelLayer(BaseChannelLayer):
    """Redis 6.2 or newer, or Valkey, by ``SUBSCRIBE`` and ``PUBLISH``; two connections however many groups.

    In a Redis Cluster (Redis 7 or newer, or Valkey) by ``SSUBSCRIBE`` and ``SPUBLISH``: groups and queues are spread
    over the masters, two connections to each, and there are no patterns. Slots may move: a subscriber that had to
    follow one gets a `Gap`. A master that fails is a loss of the link for all, until its replica has taken over.

    ``url`` is ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for TLS, ``unix:///path/to.sock``,
    ``redis+sentinel://host:26379,host:26379/mastername/database`` or ``redis+cluster://host:7000,host:7001``. Options
    of redis-py's connections may follow in the query or as keyword arguments (``password``, ``ssl_ca_certs``,
    ``socket_connect_timeout``, ``client_name``, ...), or come instead of a URL:
    ``RedisPubSubChannelLayer(host="localhost", port=6379)``. Those about decoding, retries and pools are accepted and
    have nothing to do here. ``sentinel_kwargs`` are for the connections to the Sentinels.

    A link that is silent for ``probe_interval`` seconds is given up. Patterns are Redis' globs.

    After an outage, `publish` waits until as many nodes listen again as before it, three seconds at most, so that
    nothing is said to an empty room.
    """

    def __init__(self, url: str | None = None, *, probe_interval: float = 10.0, **options: Any) -> None:
        own = frozenset({"url", "probe_interval"})
        self._queues = Queues()
        self._new_life: Callable[[list[Event[bytes]]], Life]
        if url is not None and is_cluster(url):
            cluster = ClusterAddress(url, options, own)
            self._address = str(cluster)
            self._new_life = partial(ClusterLife, cluster, probe_interval, self._queues, Presences())
        else:
            server = Address(url, options, own)
            self._address = str(server)
            self._new_life = partial(ServerLife, server, probe_interval, self._queues, Presence())
        self._left_over: list[Event[bytes]] = []
        self._log = RateLimitedLogger()
        self._life: Life | None = None

    @property
    def address(self) -> str:
        return self._address

    @property
    def _pubsub(self) -> Subscriptions:
        """What a subclass subscribes with: ``subscribe unsubscribe psubscribe punsubscribe``, any number of names."""
        return self.alive().subscriptions

    async def connect(self) -> None:
        await self.disconnect()
        self._life = self._new_life(self._left_over)
        await self._life.open()

    async def disconnect(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            self._left_over = await life.close(ListenerClosed(f"{self.address} was disconnected"))

    # ---- topics -------------------------------------------------------------------------------------------------

    async def subscribe(self, groups: str) -> None:
        await self._pubsub.subscribe(groups)

    async def unsubscribe(self, groups: str) -> None:
        await self._pubsub.unsubscribe(groups)

    async def subscribe_pattern(self, pattern: str) -> None:
        await self._pubsub.psubscribe(pattern)

    async def unsubscribe_pattern(self, pattern: str) -> None:
        await self._pubsub.punsubscribe(pattern)

    @property
    def returns_bound_queues(self) -> bool:
        return True

    async def publish(self, group: str, message: bytes) -> PublishResult:
        life = self.alive()
        if len(message) > LARGEST_MESSAGE:
            raise PayloadTooLarge(f"Redis carries up to {LARGEST_MESSAGE} bytes; this message has {len(message)}")
        if life.presence.missing:
            await life.presence.everybody()
        name = group.encode()
        try:
            bound, reached = await life.publish(name, message)
        except ListenerClosed as error:
            raise unknown(error) from error
        checked(life, reached)
        return PublishResult(int(reached), None, await self.bound_queues(life, name, bound))

    async def next_published(self) -> Event[bytes]:
        # Not `alive`: what came before the end of a life is still to be handed out.
        life = self._life or self.alive()
        return await life.subscriptions.next_event()

    def set_event_handler(self, deliver: Callable[[Event[bytes]], None]) -> None:
        # A subclass with a `next_published` of its own wants to see every event.
        if self._life is not None and type(self).next_published is RedisPubSubChannelLayer.next_published:
            self._life.subscriptions.arrivals.set_event_handler(deliver)

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        if not await self._put(self.alive(), queue.encode(), message, capacity, round(expiry * 1000)):
            raise QueueFull(f"Queue {queue} is full: its capacity of {capacity} messages is used up")

    async def take(self, queue: str) -> bytes:
        self.alive()
        return await self._queues.take(queue)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        life, topic, name = self.alive(), group.encode(), queue.encode()
        milliseconds = round(lifetime * 1000)
        await life.ask(name, "SADD", bound_groups(name), topic)
        await life.ask(name, "PEXPIRE", bound_groups(name), milliseconds)
        reply = await BIND.run(
            life.commands(topic), [bindings(topic)], name, capacity, round(expiry * 1000), milliseconds
        )
        checked(life, reply)

    async def unbind(self, group: str, queue: str) -> None:
        life, topic, name = self.alive(), group.encode(), queue.encode()
        await life.ask(topic, "HDEL", bindings(topic), name)
        await life.ask(name, "SREM", bound_groups(name), topic)

    async def purge(self, prefix: str) -> None:
        life = self.alive()
        start = prefix.encode()
        for key in await life.keys(start, "list", "set"):
            queue = queue_of_bound_groups(key)
            if queue is not None:
                for group in await life.ask(key, "SMEMBERS", key):
                    await life.ask(group, "HDEL", bindings(group), queue)
            await life.ask(key, "DEL", key)

    async def _put(self, life: Life, queue: bytes, message: bytes, capacity: int, milliseconds: int) -> bool:
        if len(message) > LARGEST_MESSAGE:
            raise PayloadTooLarge(f"Redis carries up to {LARGEST_MESSAGE} bytes; this message has {len(message)}")
        arguments = message, capacity, milliseconds, 0, life.publish_verb, root(queue)
        try:
            reply = await PUT.run(life.commands(queue), [queue, waiting(queue)], *arguments)
        except ListenerClosed as error:
            raise unknown(error) from error
        checked(life, reply)
        return bool(reply)

    async def bound_queues(self, life: Life, group: bytes, bound: list[bytes] | hiredis.ReplyError) -> list[BoundQueue]:
        """Read the bindings of a group, as ``HGETALL`` returned them; those that have ended are left out."""
        if not bound:
            return []
        if isinstance(bound, hiredis.ReplyError):
            text = "Which queues are bound to %s cannot be found out, so they miss what is published: %s"
            self._log.write(logging.ERROR, text, group.decode(errors="replace"), life.refusal(bound))
            return []
        seconds, microseconds = await life.ask(group, "TIME")
        now = int(seconds) * 1000 + int(microseconds) // 1000
        found = []
        for queue, terms in zip(bound[::2], bound[1::2], strict=True):
            if not is_terms(terms):
                self._log.write(logging.ERROR, "Somebody else wrote %r into our binding to queue %r", terms, queue)
                continue
            capacity, milliseconds, ends = map(int, terms.split())
            if ends > now:
                found.append(BoundQueue(queue.decode(), capacity, milliseconds / 1000))
        return found

    @property
    def is_alive(self) -> bool:
        """Whether there is a life that has not ended."""
        return self._life is not None and self._life.error is None

    def alive(self) -> Life:
        """The life that has not ended. Raises `ListenerClosed` if there is none."""
        life = self._life
        if life is None:
            raise ListenerClosed(f"{self.address} is not connected; use the layer through a Channel, or connect() it")
        if life.error is not None:
            raise life.error
        return life


def unknown(error: ListenerClosed) -> ListenerClosed:
    """What to raise for an error that came after a message was sent."""
    return DeliveryUnknown(f"{error}; the message was on its way, it may or may not have been accepted")
