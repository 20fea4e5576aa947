"""One session with an MQTT broker, from CONNECT to the end of the connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import anyio

from ...core.exceptions import ChannelLayerError, ListenerClosed, PayloadTooLarge, PublishRefused, SubscriptionRefused
from ...core.layer import Reencryption
from ..common.event_stream import EventStream
from . import packets
from .address import MQTTOptions
from .bridge import Bridge, BridgedGroup
from .connection import MQTTConnection, open_connection
from .inflight import PublishAck
from .packets import NO_PROPERTIES, Publish, reason_name
from .presence import Presence
from .queues.client import MQTTQueues
from .queues.messaging import last_message
from .subscriptions import Subscription, Subscriptions
from .topics import to_topic

logger = logging.getLogger("django_anyio_channels")

_NO_LOCAL = 0x04
_WITHOUT_RETAINED = 0x20
"""Options of a SUBSCRIBE; the second is Retain Handling 2."""


_LIMITED = "It accepts no more clients for now: raise its limits (mosquitto: max_connections)"
_CURES = {
    0x82: "Check that the broker accepts the values of receive_maximum and keepalive",
    0x85: "Use another client_id: the broker considers this one invalid, or does not allow it for this user",
    0x86: "Check username and password",
    0x87: "Check username and password, and what the access control allows {user}, also for the will",
    0x88: _LIMITED,
    0x89: _LIMITED,
    0x8A: "An administrator has banned this client, by its user name, client_id or address",
    0x8C: "It requires another way to log in than username and password",
    0x90: "Correct the topic of the will",
    0x95: "The CONNECT packet is too large: use a shorter client_id, password or will",
    0x97: _LIMITED,
    0x99: "Correct the payload of the will",
    0x9A: "It does not support retained messages: use a will without retain",
    0x9C: "Use the address of the other server",
    0x9D: "Use the address of the other server",
    0x9F: _LIMITED,
}
"""What to do about a refused CONNECT, by its reason code."""


class Session:
    """Connects once. It observes its connection, and carries the messages between nodes for `MQTTQueues`."""

    def __init__(
        self, options: MQTTOptions, bridge: Bridge | None, scope: str, reencrypt: Reencryption | None = None
    ) -> None:
        self.address = options.address
        self.node = options.client_id
        self.scope = scope
        self.reencrypt = reencrypt
        """What to call for a message of a group before it is put into a queue."""
        self.connection: MQTTConnection | None = None
        self.events = EventStream()
        self.queues = MQTTQueues(self)
        self.presence = Presence(self)
        if not options.will and not options.session_expiry:
            options = replace(options, will=last_message(scope, self.node, min(options.qos, 1)))
        self._options = options
        self._bridge = bridge
        self._subscriptions = Subscriptions(self.address, self.events, persistent=options.session_expiry > 0)
        self._closed = False
        self._opening: anyio.CancelScope | None = None

    async def open(self) -> None:
        """Connect. Raises `ListenerClosed`, and leaves nothing open then."""
        try:
            with anyio.move_on_after(self._options.connect_timeout) as self._opening:
                await self._connect()
                if self.has_queues:
                    await self.queues.begin()
                self._opening = None
                return
            raise ListenerClosed(f"{self.address} did not answer within {self._options.connect_timeout:g} s")
        except BaseException as error:
            self._opening = None
            with anyio.CancelScope(shield=True):
                await self._end()
            if isinstance(error, OSError):
                raise self._options.explain(error) from error
            raise

    async def _connect(self) -> None:
        if self._closed:
            raise self._not_connected()
        self.connection = await open_connection(self._options, self)
        answer, qos = self.connection.answer, self._options.qos
        if answer.reason == packets.UNSUPPORTED_PROTOCOL_VERSION:
            raise ListenerClosed(
                f"{self.address} speaks only MQTT 3.1.1; this layer needs MQTT 5: enable it there, or use a broker "
                f"that has it, such as mosquitto since 1.6, EMQX, HiveMQ or VerneMQ"
            )
        if answer.maximum_qos < qos or answer.reason == packets.QOS_NOT_SUPPORTED:
            raise ListenerClosed(
                f"{self.address} does not support QoS {qos}; use qos={min(answer.maximum_qos, qos - 1)}"
            )
        if answer.reason != 0:
            cure = _CURES.get(answer.reason, "The broker's log says more").format(user=self._options.user)
            raise ListenerClosed(f"{self.address} refused the connection: {reason_name(answer.reason)}. {cure}")
        self._subscriptions.begin(resumed=answer.session_present)

    async def close(self) -> None:
        """End the session, gracefully if it is up; every call that is pending raises `ListenerClosed`."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        elif self.connection is not None and self.connection.error is None and self.has_queues:
            try:
                await self.queues.close()
            except ChannelLayerError as error:
                level = logging.DEBUG if isinstance(error, ListenerClosed) else logging.WARNING
                logger.log(level, "The queues of %s could not be handed off: %s", self.address, error)
        await self._end()

    async def _end(self) -> None:
        self._subscriptions.end()
        if self.connection is not None:
            await self.connection.close()
        self.connection_ended(self._not_connected())
        await self.queues.messaging.finished()

    def live(self) -> MQTTConnection:
        """Return the connection. Raises `ListenerClosed` if it is over."""
        if self.connection is None:
            raise self._not_connected()
        self.connection.check()
        return self.connection

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address}: this layer is not connected")

    @property
    def has_queues(self) -> bool:
        """Whether the nodes can own queues."""
        # The broker would keep requests for a persistent session's node that has died, and none would be handled.
        answer = self.live().answer
        return not self._options.session_expiry and answer.shared_subscriptions and answer.retain_available

    def message_received(self, message: Publish, ack_handle: PublishAck | None) -> None:
        """See `ConnectionObserver`."""
        self._subscriptions.receive(message, ack_handle)

    def connection_ended(self, error: ListenerClosed) -> None:
        """See `ConnectionObserver`."""
        self.queues.end(error)
        self.presence.end(error)
        self.events.end(error)

    @property
    def host(self) -> str:
        """Where the broker is."""
        return self._options.host

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is TLS."""
        return bool(self._options.tls)

    @property
    def largest_packet(self) -> int:
        """Bytes that the broker takes at most in one packet."""
        return self.live().answer.maximum_packet_size

    async def subscribe(self, subscription: Subscription) -> None:
        """Subscribe. Raises `SubscriptionRefused`."""
        connection, topic_filter = self.live(), subscription.topic_filter
        subscription = self._subscriptions.add(subscription)
        if subscription.confirmed:
            return
        options = self._options.qos | _NO_LOCAL * self._options.no_local
        if subscription.handler is not None:
            options = 1 if subscription.retained else 1 | _WITHOUT_RETAINED
        reason = await connection.subscribe(topic_filter, options, subscription.identifier)
        if reason < packets.ERRORS:
            subscription.confirmed = True
            return
        self._subscriptions.remove(topic_filter)
        raise SubscriptionRefused(
            f"{self.address} refused the subscription to {subscription.name}: {reason_name(reason)}. Check what the "
            f"broker's access control allows {self._options.user} to read"
        )

    async def unsubscribe(self, topic_filter: bytes) -> None:
        """Undo `subscribe`."""
        connection = self.live()
        if self._subscriptions.remove(topic_filter):
            await connection.unsubscribe(topic_filter)

    async def publish(
        self, topic: bytes, payload: bytes, *, qos: int = 1, retain: bool = False, properties: bytes = NO_PROPERTIES
    ) -> int:
        """Publish, and return the broker's reason code. Raises `PayloadTooLarge` and `PublishRefused`."""
        reason = await self.live().publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if reason < packets.ERRORS:
            return reason
        refusal = f"{self.address} refused a message to {topic.decode()}: {reason_name(reason)}"
        if reason == packets.PACKET_TOO_LARGE:
            raise PayloadTooLarge(
                f"{refusal}. It has {len(payload)} bytes: send less, or raise the broker's limit (mosquitto: "
                f"message_size_limit)"
            )
        raise PublishRefused(f"{refusal}. Check what the broker's access control allows {self._options.user} to write")

    def bridged(self, group: str) -> BridgedGroup | None:
        """Return the topic of a group of devices; None for every other group."""
        return None if self._bridge is None else self._bridge.find(group)

    def group_subscription(
        self,
        group: str,
        share: bytes = b"",
        handler: Callable[[bytes], None] | None = None,
        subscription: str | None = None,
    ) -> Subscription:
        """Return a subscription to a group, for `subscribe`; a shared one has ``$share/<name>/`` as ``share``."""
        bridged = self.bridged(group)
        topic_filter = to_topic(group) if bridged is None else bridged.topic_filter
        decode = None if bridged is None else bridged.from_device
        return Subscription(share + topic_filter, group, group, subscription, decode, handler)
