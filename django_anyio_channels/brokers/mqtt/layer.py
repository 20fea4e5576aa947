"""The channel layer over MQTT 5: PUBLISH, SUBSCRIBE, and shared subscriptions for queues."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

from ...core.capabilities import PresenceRecord
from ...core.events import Event, PublishResult
from ...core.exceptions import ListenerClosed, NotSupported
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer, Reencryption, subscribing
from .address import make_options
from .bridge import Bridge
from .doctor import diagnose
from .packets import NO_MATCHING_SUBSCRIBERS, NO_PROPERTIES, Properties, Will
from .presence import Presence
from .queues.client import MQTTQueues
from .session import Session
from .subscriptions import Subscription
from .topics import to_filter, to_topic

__all__ = ["MQTTChannelLayer", "Properties", "Will"]

_ACCEPTED, _NO_RECEIVERS = PublishResult(), PublishResult(0)


class MQTTChannelLayer(BaseChannelLayer):
    """Groups are topics of an MQTT broker.

    Built from a URL, ``mqtt://user:password@host:1883/?qos=0`` (``mqtts://`` for TLS), or from keyword arguments,
    which override it:

    * ``host`` ``port`` ``username`` ``password``; ``tls`` (True or an `ssl.SSLContext`), ``ca_file`` ``cert_file``
      ``key_file`` (paths of PEM files);
    * ``qos``: of what is published and subscribed. 1, the default: `publish` returns when the broker has acknowledged
      the message, and raises `PublishRefused` if it refused it. 2: the same in four packets. 0: returns when the
      message was handed to a live connection; the broker may drop it, and may refuse it without an error.
    * ``client_id`` (default: random) and ``session_expiry`` (seconds, default 0): with both, the broker keeps what is
      published while this node is away, and delivers it in order when a subscriber asks for its group again. Two
      nodes must not have the same ``client_id``: the broker ends the connection of the former.
    * ``no_local``: don't deliver to this layer what it published itself.
    * ``keepalive``: seconds of silence after which the broker may close the connection. ``probe_interval``: seconds
      of silence after which the layer does. ``connect_timeout``: seconds.
    * ``receive_maximum``: how many unacknowledged messages the broker may have in flight to this node. The broker sets
      the limit of the other direction; more calls of `publish` wait.
    * ``will``: what the broker publishes if this node disconnects unexpectedly.
    * ``bridge``: which groups are topics of devices, a `Bridge`. In Django's settings it is the key ``bridge``.

    A pattern of `subscribe_pattern` is MQTT's topic filter (``+`` one level, ``#`` all below). How names become topics
    says the module `topics`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: bool | ssl.SSLContext | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        client_id: str | None = None,
        session_expiry: int | None = None,
        keepalive: int | None = None,
        probe_interval: float | None = None,
        connect_timeout: float | None = None,
        qos: int | None = None,
        no_local: bool | None = None,
        receive_maximum: int | None = None,
        will: Will | None = None,
        bridge: Bridge | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "url", "bridge")}
        failure = None
        try:
            self._options = make_options(url, **given)
            self._options.connect_packet()
        except ValueError as error:
            failure = error.with_traceback(None)
        if failure is not None:
            # Error reports show the variables of frames: none has the password any more.
            url = password = failure.__context__ = None
            given.clear()
            raise failure
        self._bridge = bridge
        self._scope = ""
        self._reencrypt: Reencryption | None = None
        self._session: Session | None = None

    @property
    def needs_asyncio(self) -> bool:
        return True

    @property
    def address(self) -> str:
        return self._options.address

    def set_scope(self, prefix: str) -> None:
        """See `BaseChannelLayer`. Raises `ValueError` if the options are for one connection only."""
        if not self._options.fits_any_connection:
            raise ValueError(
                "client_id and session_expiry are for one connection, which a Channel has; each event loop of each "
                "process of a Django project has its own, and the broker would end the connection of the former one"
            )
        self._scope = prefix

    @property
    def retention(self) -> float:
        return self._options.session_expiry

    def set_reencryption(self, reencrypt: Reencryption) -> None:
        self._reencrypt = reencrypt

    async def connect(self) -> None:
        former, session = self._session, Session(self._options, self._bridge, self._scope, self._reencrypt)
        self._session = session
        if former is not None:
            await former.close()
        await session.open()

    async def disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connected(self) -> Session:
        if self._session is None:
            raise ListenerClosed(f"{self.address}: this layer is not connected")
        return self._session

    async def subscribe(self, groups: str) -> None:
        session = self._connected()
        name = subscribing.get(groups)
        subscription = session.group_subscription(groups, subscription=None if name == groups else name)
        await session.subscribe(subscription)

    async def unsubscribe(self, groups: str) -> None:
        session = self._connected()
        await session.unsubscribe(session.group_subscription(groups).topic_filter)

    async def subscribe_pattern(self, pattern: str) -> None:
        """Events of every topic that matches MQTT's topic filter. Raises `ValueError` for an invalid one."""
        await self._connected().subscribe(Subscription(to_filter(pattern), pattern, None, pattern))

    async def unsubscribe_pattern(self, pattern: str) -> None:
        await self._connected().unsubscribe(to_filter(pattern))

    async def publish(
        self,
        group: str,
        message: bytes,
        *,
        qos: int | None = None,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> PublishResult:
        """Publish; ``qos`` overrides the layer's, ``retain`` has the broker keep the message for later subscribers.

        Raises `PublishRefused` when the broker says at QoS 1 or 2 that we may not, and `PayloadTooLarge` for more than
        its Maximum Packet Size. ``receivers`` of the result is 0 when the broker says that nobody subscribes, else
        None.
        """
        session = self._connected()
        topic, bridged = None, session.bridged(group)
        if bridged is not None:
            topic, message = bridged.to_device(message)
            qos = bridged.rule.qos if qos is None else qos
            retain = retain or bridged.rule.retain
        reason = await session.publish(
            topic or to_topic(group),
            message,
            qos=self._options.qos if qos is None else qos,
            retain=retain,
            properties=NO_PROPERTIES if properties is None else properties.pack(),
        )
        return _NO_RECEIVERS if reason == NO_MATCHING_SUBSCRIBERS else _ACCEPTED

    async def count_subscribers(self, group: str) -> int | None:
        """At QoS 1 and 2 `publish` says it; at QoS 0 the broker is asked with an empty message at QoS 1."""
        return None if self._options.qos else (await self.publish(group, b"", qos=1)).receivers

    async def next_published(self) -> Event[bytes]:
        return await self._connected().events.next()

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        self._connected().events.set_event_handler(handler)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._queues().put(queue, message, capacity, expiry)

    async def take(self, queue: str) -> bytes:
        return await self._queues().take(queue)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._queues().bind(group, queue, capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._queues().unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        await self._queues().purge(prefix)
        await self._presence().purge(prefix)

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        await self._presence().put(records, ttl)

    async def read_presence(self, name: str) -> dict[str, bytes]:
        return await self._presence().read(name)

    def _presence(self) -> Presence:
        session = self._connected()
        if not session.live().answer.retain_available:
            raise NotSupported(
                f"{self.address}: presence needs a broker that has retained messages: enable them (mosquitto: "
                f"retain_available), or use Redis or PostgreSQL"
            )
        return session.presence

    @property
    def queues_are_at_nodes(self) -> bool:
        """See `SupportsInspection`."""
        return True

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        session = self._connected()
        return session.queues.inspect(prefix, limit) if session.has_queues else []

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        return await diagnose(self._connected(), largest_message)

    def _queues(self) -> MQTTQueues:
        session = self._connected()
        if not session.has_queues:
            raise NotSupported(
                f"{self.address}: queues (normal channels) need a broker that has shared subscriptions and retained "
                f"messages, and a node without session_expiry. Enable them (mosquitto: retain_available), use another "
                f"client_id for queues, or use Redis or PostgreSQL"
            )
        return session.queues
