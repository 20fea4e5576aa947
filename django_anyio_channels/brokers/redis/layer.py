"""The layer on Redis and Valkey: groups by ``PUBLISH`` and ``SUBSCRIBE``, queues as lists."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    import hiredis
    import redis  # noqa: F401
except ImportError as error:
    from ...core.exceptions import MissingDriver

    raise MissingDriver("Redis needs redis-py and hiredis: pip install django-anyio-channels[redis]") from error

from ...core.capabilities import PresenceRecord, QueueLength
from ...core.events import BoundQueue, Event, PublishResult
from ...core.exceptions import DeliveryUnknown, ListenerClosed, PayloadTooLarge, QueueFull
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer
from ...core.options import check_options
from ...core.stats import RateLimitedLogger
from ..common.urls import read_url
from .address import Address
from .cluster.discovery import ClusterSeeds
from .doctor import diagnose
from .inspection import find_queues, inspect_queues
from .keys import (
    SENT,
    base_key,
    bindings_key,
    bound_groups_key,
    companion_key,
    inflight_key,
    notify_channel,
    presence_key,
    sent_key,
)
from .options import OPTIONS
from .peers import Peers
from .presence import put_records, read_records
from .queues import PURGED, Queues
from .readers import publishing_arguments, queue_keys
from .scripts import BIND, BOUND_GROUPS, PUT
from .sentinel import Sentinels
from .session import Session
from .subscriptions import SubscriptionObserver, Subscriptions, count_subscribers, number_of

LARGEST_MESSAGE = 512 * 1024 * 1024 - 1024
"""Bytes; Redis' own limit for a string."""

_BINDING = re.compile(rb"[0-9]{1,15} [0-9]{1,15} [0-9]{1,15}")
"""Capacity, expiry in ms, and when the binding ends in ms; see bind.lua."""


class RedisPubSubChannelLayer(BaseChannelLayer):
    """Redis 6.2 or newer, or Valkey, by ``SUBSCRIBE`` and ``PUBLISH``; two connections however many groups.

    In a Redis Cluster (Redis 7 or newer, or Valkey) by ``SSUBSCRIBE`` and ``SPUBLISH``: groups and queues are spread
    over the masters, two connections to each, and there are no patterns. Slots may move: a subscriber that had to
    follow one gets a `Gap`. A master that fails ends the session of all, until its replica has taken over.

    ``url`` is ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for TLS, ``unix:///path/to.sock``,
    ``redis+sentinel://host:26379,host:26379/mastername/database`` or ``redis+cluster://host:7000,host:7001``. Options
    of redis-py's connections may follow in the query or as keyword arguments (``password``, ``ssl_ca_certs``,
    ``socket_connect_timeout``, ``client_name``, ...), or come instead of a URL:
    ``RedisPubSubChannelLayer(host="localhost", port=6379)``. Those about decoding, retries and pools are accepted and
    have nothing to do here. ``valkey://`` and ``valkeys://`` mean ``redis://`` and ``rediss://``.

    ``sentinel_kwargs`` are for the connections to the Sentinels. ``address_remap``, a dict or a function, maps the
    addresses that Sentinels and the nodes of a cluster announce to those that can be reached.

    A connection that is silent for ``probe_interval`` seconds is given up. Patterns are Redis' globs.

    After an outage, `publish` waits until as many nodes of its scope are subscribed again as before it, three seconds
    at most, so that no message is published to nobody.
    """

    def __init__(self, url: str | None = None, *, probe_interval: float = 10.0, **options: Any) -> None:
        check_options({**options, "url": url, "probe_interval": probe_interval}, OPTIONS)
        self._location = locate(url, options, type(self))
        self._probe_interval = probe_interval
        self._queues = Queues()
        self._peers = Peers()
        self._observer: SubscriptionObserver | None = None
        """What each session reports messages, gaps and its end to."""
        self._unconsumed: list[Event[bytes]] = []
        self._log = RateLimitedLogger()
        self._session: Session | None = None

    @property
    def needs_asyncio(self) -> bool:
        return True

    @property
    def address(self) -> str:
        return str(self._location)

    @property
    def _pubsub(self) -> Subscriptions:
        """What a subclass subscribes with: ``subscribe unsubscribe psubscribe punsubscribe``, any number of names."""
        return self.require_session().subscriptions

    def set_scope(self, prefix: str) -> None:
        self._peers.scope, self._peers.unscoped = prefix.encode(), False

    async def connect(self) -> None:
        await self.disconnect()
        self._session = Session(
            self._location, self._probe_interval, self._queues, self._peers, self._unconsumed, self._observer
        )
        await self._session.open()

    async def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._unconsumed = await session.close(ListenerClosed(f"{self.address} was disconnected"))

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
        session = self.require_session()
        check_size(message)
        name = group.encode()
        try:
            bindings, receivers = await session.publish(name, message)
        except ListenerClosed as error:
            raise delivery_unknown(error) from error
        session.raise_for_error(receivers)
        queues = await self.bound_queues(session, name, bindings) if bindings else ()
        return PublishResult(int(receivers), None, queues)

    async def count_subscribers(self, group: str) -> int | None:
        session = self.require_session()
        if session.publish_command == "SPUBLISH":
            return None  # there are no patterns, so `publish` counts right
        return number_of(session.raise_for_error(await count_subscribers(session, group.encode())))

    async def next_published(self) -> Event[bytes]:
        # Not `require_session`: what came before the end of a session is still to be handed out.
        session = self._session or self.require_session()
        return await session.subscriptions.next_event()

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        # A subclass with a `next_published` of its own wants to see every event.
        if self._session is not None and type(self).next_published is RedisPubSubChannelLayer.next_published:
            self._session.subscriptions.events.set_event_handler(handler)

    async def publish_once(self, group: str, message: bytes, *, key: str, seconds: float) -> PublishResult:
        session, name = self.require_session(), group.encode()
        check_size(message)
        try:
            bindings, receivers = await session.publish_once(name, message, sent_key(name, key), round(seconds * 1000))
        except ListenerClosed as error:
            raise delivery_unknown(error) from error
        session.raise_for_error(receivers)
        queues = await self.bound_queues(session, name, bindings) if bindings else ()
        return PublishResult(int(receivers), None, queues)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._put(queue, message, capacity, expiry)

    async def put_once(
        self, queue: str, message: bytes, *, capacity: int, expiry: float, key: str, seconds: float
    ) -> None:
        await self._put(queue, message, capacity, expiry, [sent_key(queue.encode(), key)], round(seconds * 1000))

    async def _put(
        self, queue: str, message: bytes, capacity: int, expiry: float, once: Sequence[bytes] = (), *ttl: int
    ) -> None:
        session, name = self.require_session(), queue.encode()
        check_size(message)
        args: list[bytes | str | int] = [
            message,
            capacity,
            round(expiry * 1000),
            *publishing_arguments(session, name),
            *ttl,
        ]
        try:
            reply = await PUT.run(session.executor(name), [*queue_keys(name), *once], *args)
        except ListenerClosed as error:
            raise delivery_unknown(error) from error
        if not session.raise_for_error(reply):
            raise QueueFull(queue, capacity)

    async def take(self, queue: str) -> bytes:
        self.require_session()
        return await self._queues.take(queue)

    async def queue_length(self, queue: str) -> QueueLength:
        name = queue.encode()
        return QueueLength(int(await self.require_session().execute(name, "LLEN", name)), 0)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        session, topic, name = self.require_session(), group.encode(), queue.encode()
        milliseconds = round(lifetime * 1000)
        groups = [bound_groups_key(name)]
        session.raise_for_error(await BOUND_GROUPS.run(session.executor(name), groups, topic, milliseconds))
        args = name, capacity, round(expiry * 1000), milliseconds
        session.raise_for_error(await BIND.run(session.executor(topic), [bindings_key(topic)], *args))
        await session.peers.announce_binding(session, milliseconds)

    async def unbind(self, group: str, queue: str) -> None:
        session, topic, name = self.require_session(), group.encode(), queue.encode()
        await session.execute(topic, "HDEL", bindings_key(topic), name)
        await session.execute(name, "ZREM", bound_groups_key(name), topic)

    async def purge(self, prefix: str) -> None:
        session = self.require_session()
        await session.peers.purge(session, prefix.encode())
        for key in await session.keys(prefix.encode(), "list"):
            await session.execute(key, "DEL", key)
        for key in await session.keys(prefix.encode(), "zset"):
            queue = base_key(key)
            if key == bound_groups_key(queue):
                for group in await session.execute(key, "ZRANGE", key, 0, -1):
                    await session.execute(group, "HDEL", bindings_key(group), queue)
                await session.execute(key, "DEL", key)
        for key in await session.keys(prefix.encode(), "string"):
            if key.startswith(companion_key(base_key(key), SENT)):
                await session.execute(key, "DEL", key)
        for key in await session.keys(prefix.encode(), "hash"):
            name = base_key(key)
            if key in (inflight_key(name), presence_key(name)):
                await session.execute(key, "DEL", key)
            if key == inflight_key(name):
                channel = session.subscriptions.wire_name(notify_channel(name))
                await session.execute(name, session.publish_command, channel, PURGED)

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        await put_records(self.require_session(), records, ttl)

    async def read_presence(self, name: str) -> dict[str, bytes]:
        return await read_records(self.require_session(), name.encode())

    @property
    def queues_are_at_nodes(self) -> bool:
        """See `SupportsInspection`."""
        return False

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        session = self.require_session()
        names = sorted(await find_queues(session, prefix.encode()))
        return await inspect_queues(session, names[:limit])

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        return await diagnose(self.require_session(), self._location, largest_message)

    async def bound_queues(
        self, session: Session, group: bytes, bindings: list[bytes] | hiredis.ReplyError
    ) -> list[BoundQueue]:
        """Read the bindings of a group, as ``HGETALL`` returned them; those that have ended are left out."""
        if isinstance(bindings, hiredis.ReplyError):
            text = "The queues that are bound to %s cannot be found, so they miss the message: %s"
            self._log.write(logging.ERROR, text, group.decode(errors="replace"), session.translate_error(bindings))
            return []
        seconds, microseconds = await session.execute(group, "TIME")
        now = int(seconds) * 1000 + int(microseconds) // 1000
        found = []
        for queue, binding in zip(bindings[::2], bindings[1::2], strict=True):
            if not _BINDING.fullmatch(binding):
                self._log.write(logging.ERROR, "Ignored a binding of another program to %r: %r", queue, binding)
                continue
            capacity, milliseconds, ends = map(int, binding.split())
            if ends > now:
                found.append(BoundQueue(queue.decode(), capacity, milliseconds / 1000))
        return found

    @property
    def is_connected(self) -> bool:
        """Whether there is a session that has not ended."""
        return self._session is not None and self._session.error is None

    def require_session(self) -> Session:
        """Return the session that has not ended. Raises `ListenerClosed` if there is none."""
        session = self._session
        if session is None:
            raise ListenerClosed(f"{self.address} is not connected; use the layer through a Channel, or connect() it")
        if session.error is not None:
            raise session.error
        return session


def locate(url: str | None, options: Mapping[str, Any], layer: type) -> Address | Sentinels | ClusterSeeds:
    """Read the URL and the options of a layer. Raises `ValueError` and `TypeError`, which show no secret."""
    kinds = () if url is None else read_url(url).kinds
    if url is not None and "sentinel" in kinds:
        return Sentinels(url, options, layer)
    if url is not None and "cluster" in kinds:
        return ClusterSeeds(url, options, layer)
    return Address(url, options, layer)


def check_size(message: bytes) -> None:
    """Raise `PayloadTooLarge` for what Redis cannot carry."""
    if len(message) > LARGEST_MESSAGE:
        raise PayloadTooLarge(f"Redis carries up to {LARGEST_MESSAGE} bytes; this message has {len(message)}")


def delivery_unknown(error: ListenerClosed) -> ListenerClosed:
    """Return what to raise for an error that came after a message was sent."""
    return DeliveryUnknown(f"{error}; the message was on its way, it may or may not have been accepted")
