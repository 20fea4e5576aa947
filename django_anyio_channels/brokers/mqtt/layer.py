"""MQTT 5 (and 3.1.1): for those who have devices."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import anyio

from ...core.events import Event
from ...core.exceptions import (
    ChannelLayerError,
    ListenerClosed,
    NotSupported,
    PayloadTooLarge,
    PublishRefused,
    SubscriptionRefused,
)
from ...core.layer import BaseChannelLayer, subscribing
from ..common.event_stream import EventStream
from . import packets
from .address import MQTTOptions, make_options
from .bridge import Bridge, Junction
from .connection import MQTTConnection, open_connection
from .inflight import PublishAck
from .packets import ConnAck, Properties, Publish, Will, reason_name
from .queues.client import MQTTQueues
from .topics import matches, to_filter, to_group, to_topic

__all__ = ["MQTTChannelLayer", "Properties", "Will"]

logger = logging.getLogger("django_anyio_channels")

_HOLD_SECONDS = 10.0
"""How long a persistent session's messages wait for their subscriber after the session was resumed."""

_UNSUPPORTED_VERSION = (0x01, 0x84)


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """Where the messages of one subscription go."""

    topic_filter: bytes
    name: str
    """What errors call the subscription."""
    group: str | None = None
    """None for a pattern: the topic says it."""
    subscription: str | None = None
    handle: Callable[[Publish], None] | None = None
    """Takes the messages that are no events."""
    frame: Callable[[Publish], bytes | None] | None = None
    """Makes the events' messages; without it they are the payloads."""

    def event(self, message: Publish, receipt: PublishAck | None) -> Event[bytes] | None:
        """None if the message means nothing here."""
        group = to_group(message.topic) if self.group is None else self.group
        frame = message.payload if self.frame is None else self.frame(message)
        return None if frame is None else Event(group, frame, self.subscription, receipt)


class MQTTChannelLayer(BaseChannelLayer):
    """Groups are topics of an MQTT broker.

    Built from a URL, ``mqtt://user:password@host:1883/?qos=0`` (``mqtts://`` for TLS), or from keyword arguments,
    which override it:

    * ``host`` ``port`` ``username`` ``password``; ``tls`` (True or an `ssl.SSLContext`), ``ca_file`` ``cert_file``
      ``key_file`` (paths of PEM files);
    * ``qos``: of what is published and subscribed. 1, the default: `publish` returns when the broker has acknowledged
      the message, and raises `PublishRefused` if it refused it. 2: the same in four packets. 0: returns when the
      message was handed to a live connection; the broker may drop it, and refuses in silence.
    * ``client_id`` (default: random) and ``session_expiry`` (seconds, default 0): with both, the broker keeps what is
      published while this node is away, and delivers it in order when a subscriber asks for its group again. Two
      nodes must not have the same ``client_id``: the broker ends the connection of the former.
    * ``no_local``: don't deliver to this layer what it published itself (MQTT 5).
    * ``keepalive``: seconds after which the broker may take us for dead. ``probe_interval``: seconds after which we
      take a silent broker for dead. ``connect_timeout``: seconds.
    * ``receive_maximum``: how many unacknowledged messages the broker may have on their way to us. How many we may
      have on their way to it, it says itself; more calls of `publish` wait their turn.
    * ``will``: what the broker publishes when we vanish.
    * ``version``: 5 or 4 (MQTT 3.1.1). By default 5, and 4 if the broker refuses 5.
    * ``bridge``: which groups are topics of devices, a `Bridge`. In Django's settings it is the key ``bridge``.

    A pattern of `subscribe_pattern` is MQTT's topic filter (``+`` one level, ``#`` all below). How names become topics
    says `mqtt_names`.
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
        version: int | None = None,
        bridge: Bridge | None = None,
    ) -> None:
        self._bridge = bridge
        self._options: MQTTOptions = make_options(
            url,
            host=host,
            port=port,
            username=username,
            password=password,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            client_id=client_id,
            session_expiry=session_expiry,
            keepalive=keepalive,
            probe_interval=probe_interval,
            connect_timeout=connect_timeout,
            qos=qos,
            no_local=no_local,
            receive_maximum=receive_maximum,
            will=will,
            version=version,
        )
        self._connection: MQTTConnection | None = None
        self._connecting: anyio.CancelScope | None = None
        self._routes: dict[int, _Route] = {}
        self._identifiers: dict[bytes, int] = {}
        self._in_effect: set[bytes] = set()
        """Filters that the broker has confirmed."""
        self._arrivals: EventStream
        self._holds = False
        """Whether what nobody has subscribed to yet is held for a while: the broker resumes our session at once."""
        self._held: list[tuple[Publish, PublishAck | None]] = []
        self._stop_later: asyncio.TimerHandle | None = None
        self._queues = MQTTQueues(self)

    @property
    def address(self) -> str:
        return self._options.address

    # ---- life ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        await self.disconnect()
        with anyio.move_on_after(self._options.connect_timeout) as scope:
            self._connecting = scope
            try:
                await self._open()
                if self._can_queue(self._live()):
                    await self._queues.begin()
            except OSError as error:
                raise ListenerClosed(f"{self.address}: {error}") from error
            self._connecting = None
        if scope.cancelled_caught:
            raise ListenerClosed(f"{self.address} did not answer within {self._options.connect_timeout:g} s")

    async def disconnect(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        elif self._connection is not None and self._connection.error is None and self._can_queue(self._connection):
            await self._leave_queues()
        connection, self._connection = self._connection, None
        if self._stop_later is not None:
            self._stop_later.cancel()
        self._routes.clear()
        self._identifiers.clear()
        self._in_effect.clear()
        self._held.clear()
        self._stop_later = None
        self._queues.end()
        if connection is not None:
            await connection.close()
        await self._queues.finished()

    async def _leave_queues(self) -> None:
        try:
            await self._queues.leave()
        except ChannelLayerError as error:
            level = logging.DEBUG if isinstance(error, ListenerClosed) else logging.WARNING
            logger.log(level, "The queues of %s could not be handed over: %s", self.address, error)

    async def _open(self) -> None:
        connection, answer = await self._handshake(self._options.version or 5)
        if answer.reason in _UNSUPPORTED_VERSION and self._options.version is None:
            await connection.close()
            connection, answer = await self._handshake(4)
        if answer.reason != 0:
            await connection.close()
            raise ListenerClosed(self._refusal(answer.reason))
        offered = answer.maximum_qos
        if offered < self._options.qos:
            await connection.close()
            raise ListenerClosed(f"{self.address} offers no QoS {self._options.qos}; use qos={offered}")
        self._holds = answer.session_present
        self._stop_later = asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._stop_holding)

    async def _handshake(self, version: int) -> tuple[MQTTConnection, ConnAck]:
        self._holds = self._options.session_expiry > 0
        self._arrivals = EventStream()
        connection, answer = await open_connection(self._options, version, self)
        self._connection = connection
        return connection, answer

    def _refusal(self, reason: int) -> str:
        return f"{self.address} refused the connection: {reason_name(reason)}. Check username, password and client_id"

    def _live(self) -> MQTTConnection:
        connection = self._connection
        if connection is None:
            raise self._not_connected()
        if connection.error is not None:
            connection.check()
        return connection

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address}: this layer is not connected")

    # ---- groups and patterns ------------------------------------------------------------------------------------

    async def subscribe(self, groups: str) -> None:
        owner = subscribing.get(groups)
        subscription = None if owner == groups else owner
        junction = self._junction(groups)
        frame = None if junction is None else junction.frame
        route = _Route(self.filter_of(groups), groups, groups, subscription, frame=frame)
        await self._subscribe(route, self._options.no_local)

    async def unsubscribe(self, groups: str) -> None:
        await self._unsubscribe(self.filter_of(groups))

    async def subscribe_pattern(self, pattern: str) -> None:
        """Events of every topic that matches MQTT's topic filter; raises `ValueError` for what is none."""
        await self._subscribe(_Route(to_filter(pattern), pattern, None, pattern), self._options.no_local)

    async def unsubscribe_pattern(self, pattern: str) -> None:
        await self._unsubscribe(to_filter(pattern))

    async def publish(
        self,
        group: str,
        message: bytes,
        *,
        qos: int | None = None,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int | None:
        """Publish; ``qos`` overrides the layer's, ``retain`` has the broker keep the message for later subscribers.

        ``properties`` are for MQTT 5. Raises `PublishRefused` when
        the broker says at QoS 1 or 2 that we may not, and `PayloadTooLarge` for more than its Maximum Packet Size.
        Returns 0 when the broker says that nobody subscribes, else None.
        """
        connection = self._live()
        packed = packets.NO_PROPERTIES if properties is None else properties.pack()
        topic = None
        junction = self._junction(group)
        if junction is not None:
            topic, message = junction.message(message)
            qos = junction.rule.qos if qos is None else qos
            retain = retain or junction.rule.retain
        reason = await connection.publish(
            topic or to_topic(group),
            message,
            qos=self._options.qos if qos is None else qos,
            retain=retain,
            properties=packed,
        )
        self._check_reason(reason, group, len(message))
        return 0 if reason == packets.NO_MATCHING_SUBSCRIBERS else None

    async def count_subscribers(self, group: str) -> int | None:
        """At QoS 1 and 2 `publish` says it; at QoS 0 the broker is asked with an empty message at QoS 1."""
        return None if self._options.qos else await self.publish(group, b"", qos=1)

    def _junction(self, group: str) -> Junction | None:
        return None if self._bridge is None else self._bridge.find(group)

    def _check_reason(self, reason: int, to: str, size: int) -> None:
        if reason < 0x80:
            return
        name = reason_name(reason)
        if reason == packets.PACKET_TOO_LARGE:
            raise PayloadTooLarge(
                f"{self.address} refused {size} bytes to {to}: {name}. Send less, or raise the broker's "
                f"limit (mosquitto: message_size_limit)"
            )
        raise PublishRefused(
            f"{self.address} refused a message to {to}: {name}. Check what the broker's access control allows "
            f"user {self._options.username!r} to write"
        )

    async def next_published(self) -> Event[bytes]:
        if self._connection is None:
            raise self._not_connected()
        return await self._arrivals.next()

    def set_event_handler(self, deliver: Callable[[Event[bytes]], None]) -> None:
        self._arrivals.set_event_handler(deliver)

    async def _subscribe(self, route: _Route, no_local: bool, qos: int | None = None) -> None:
        connection = self._live()
        topic_filter = route.topic_filter
        known = self._routes.get(self._identifiers.get(topic_filter, 0))
        if known is not None and known.name != route.name:
            raise SubscriptionRefused(
                f"{route.name} and {known.name} are the same MQTT topic, {topic_filter.decode()}; one event loop can "
                f"subscribe to it by one of these names only"
            )
        if topic_filter in self._in_effect:
            return
        identifier = self._identifiers.get(topic_filter) or self._new_identifier(topic_filter)
        self._routes[identifier] = route
        self._deliver_held()
        # What nodes say to each other is never retained: Retain Handling 2 keeps away what somebody else left there.
        options = (self._options.qos if qos is None else qos) | 0x04 * no_local | 0x20 * (route.handle is not None)
        reason = await connection.subscribe(topic_filter, options, identifier)
        if reason >= 0x80:
            self._forget(topic_filter)
            raise SubscriptionRefused(
                f"{self.address} refused the subscription to {route.name}: "
                f"{reason_name(reason)}. Check what the broker's access control allows user "
                f"{self._options.username!r} to read"
            )
        if topic_filter in self._identifiers:
            self._in_effect.add(topic_filter)

    async def _unsubscribe(self, topic_filter: bytes) -> None:
        connection = self._live()
        if self._forget(topic_filter):
            await connection.unsubscribe(topic_filter)

    def _new_identifier(self, topic_filter: bytes) -> int:
        """The number by which the broker says which subscription a message is for.

        Made of the filter: a session that outlived its process still sends the former process's numbers.
        """
        identifier = crc32(topic_filter) & 0x0FFF_FFFF or 1
        while identifier in self._routes:
            identifier = identifier % 0x0FFF_FFFF + 1
        self._identifiers[topic_filter] = identifier
        return identifier

    def _forget(self, topic_filter: bytes) -> bool:
        self._in_effect.discard(topic_filter)
        identifier = self._identifiers.pop(topic_filter, None)
        if identifier is None:
            return False
        del self._routes[identifier]
        return True

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._with_queues().put(queue, message, capacity, expiry)

    async def take(self, queue: str) -> bytes:
        return await self._with_queues().take(queue)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._with_queues().bind(group, queue, capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._with_queues().unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        await self._with_queues().purge(prefix)

    def _with_queues(self) -> MQTTQueues:
        connection = self._live()
        if not self._can_queue(connection):
            raise NotSupported(
                f"{self.address}: queues (normal channels) need MQTT 5, shared subscriptions, and a node without "
                f"session_expiry; use another client_id for them, or Redis or PostgreSQL"
            )
        return self._queues

    def _can_queue(self, connection: MQTTConnection) -> bool:
        # The broker would keep requests for a persistent session's node that has died, and nobody would answer them.
        return connection.version == 5 and connection.shared_subscriptions and not self._options.session_expiry

    # What `MQTTQueues` needs of us.

    @property
    def node(self) -> str:
        return self._options.client_id

    @property
    def largest_packet(self) -> int:
        return self._live().maximum_packet_size

    def filter_of(self, group: str) -> bytes:
        junction = self._junction(group)
        return to_topic(group) if junction is None else junction.topic_filter

    def frame_of(self, group: str, message: Publish) -> bytes | None:
        junction = self._junction(group)
        return message.payload if junction is None else junction.frame(message)

    async def listen(self, topic_filter: bytes, handle: Callable[[Publish], None]) -> None:
        await self._subscribe(_Route(topic_filter, repr(topic_filter), handle=handle), no_local=False, qos=1)

    async def stop_listening(self, topic_filter: bytes) -> None:
        await self._unsubscribe(topic_filter)

    async def send(self, topic: bytes, payload: bytes) -> int:
        reason = await self._live().publish(topic, payload, qos=1, retain=False, properties=packets.NO_PROPERTIES)
        self._check_reason(reason, repr(topic), len(payload))
        return reason

    # ---- in -----------------------------------------------------------------------------------------------------

    def message_received(self, message: Publish, receipt: PublishAck | None) -> None:
        routes = self._routes_of(message)
        if not routes and self._holds:
            self._held.append((message, receipt))
            return
        self._deliver(message, receipt, routes)

    def _routes_of(self, message: Publish) -> list[_Route]:
        if message.subscriptions:
            wanted = [self._routes[each] for each in message.subscriptions if each in self._routes]
        else:
            wanted = list(self._routes.values())
        return [route for route in wanted if matches(route.topic_filter, message.topic)]

    def _deliver(self, message: Publish, receipt: PublishAck | None, routes: list[_Route]) -> None:
        # A session that ends with its connection brings nothing twice, so nobody need hold what it brought: a reader
        # that takes its time would only use up the broker's patience for all others.
        lasting = receipt if self._options.session_expiry else None
        for route in routes:
            if route.handle is not None:
                route.handle(message)
                continue
            event = route.event(message, lasting)
            if event is None:
                continue
            if lasting is not None:
                lasting.retain()
            self._arrivals.add(event)
        if receipt is not None:
            receipt.release()

    def _deliver_held(self) -> None:
        """Deliver what a resumed session brought before its subscriber was there."""
        held, self._held = self._held, []
        for message, receipt in held:
            self.message_received(message, receipt)

    def _stop_holding(self) -> None:
        self._holds = False
        held, self._held = self._held, []
        if held:
            logger.warning(
                "%s delivered %d messages of the former session to topics that nobody subscribed to within %g s "
                "(the first: %s); they were dropped",
                self.address,
                len(held),
                _HOLD_SECONDS,
                to_group(held[0][0].topic),
            )
        for message, receipt in held:
            self._deliver(message, receipt, [])

    def connection_ended(self, error: ListenerClosed) -> None:
        self._queues.end()
        self._arrivals.end(error)
