"""One session with an MQTT broker, from CONNECT to the end of the connection."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from ...core.exceptions import ChannelLayerError, ListenerClosed, PayloadTooLarge, PublishRefused, SubscriptionRefused
from ..common.event_stream import EventStream
from . import packets
from .address import MQTTOptions
from .bridge import Bridge, BridgedGroup
from .connection import MQTTConnection, open_connection
from .inflight import PublishAck
from .packets import Publish, reason_name
from .queues.client import MQTTQueues
from .subscriptions import Subscription, Subscriptions
from .topics import to_topic

logger = logging.getLogger("django_anyio_channels")

_UNSUPPORTED_VERSION = (0x01, 0x84)
_NO_LOCAL, _NOT_RETAINED = 0x04, 0x20
"""Options of a SUBSCRIBE. The latter is Retain Handling 2: nodes retain nothing of what they send to each other."""


class Session:
    """Connects once. It observes its connection, and carries the messages between nodes for `MQTTQueues`."""

    def __init__(self, options: MQTTOptions, bridge: Bridge | None, scope: str) -> None:
        self.address = options.address
        self.node = options.client_id
        self.scope = scope
        self.connection: MQTTConnection | None = None
        self.events = EventStream()
        self.queues = MQTTQueues(self)
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
                    await self.queues.hand_offs.begin()
                self._opening = None
                return
            raise ListenerClosed(f"{self.address} did not answer within {self._options.connect_timeout:g} s")
        except BaseException as error:
            self._opening = None
            with anyio.CancelScope(shield=True):
                await self._end()
            if isinstance(error, OSError):
                raise ListenerClosed(f"{self.address}: {error}") from error
            raise

    async def _connect(self) -> None:
        if self._closed:
            raise self._not_connected()
        options = self._options
        connection, answer = await open_connection(options, options.version or 5, self)
        if answer.reason in _UNSUPPORTED_VERSION and options.version is None:
            await connection.close()
            connection, answer = await open_connection(options, 4, self)
        self.connection = connection
        if answer.reason != 0:
            raise ListenerClosed(
                f"{self.address} refused the connection: {reason_name(answer.reason)}. Check username, password and "
                f"client_id"
            )
        if answer.maximum_qos < options.qos:
            raise ListenerClosed(f"{self.address} offers no QoS {options.qos}; use qos={answer.maximum_qos}")
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
        self._fail_calls(self._not_connected())
        await self.queues.messaging.finished()

    def live(self) -> MQTTConnection:
        """Return the connection. Raises `ListenerClosed` if it is over."""
        connection = self.connection
        if connection is None:
            raise self._not_connected()
        if connection.error is not None:
            connection.check()
        return connection

    def _not_connected(self) -> ListenerClosed:
        return ListenerClosed(f"{self.address}: this layer is not connected")

    @property
    def has_queues(self) -> bool:
        """Whether the nodes can own queues."""
        connection = self.connection
        # The broker would keep requests for a persistent session's node that has died, and none would be handled.
        if connection is None or self._options.session_expiry:
            return False
        return connection.version == 5 and connection.shared_subscriptions

    # ---- `ConnectionObserver` -----------------------------------------------------------------------------------

    def message_received(self, message: Publish, ack_handle: PublishAck | None) -> None:
        self._subscriptions.receive(message, ack_handle)

    def connection_ended(self, error: ListenerClosed) -> None:
        if self.connection is not None:
            self._fail_calls(error)

    def _fail_calls(self, error: ListenerClosed) -> None:
        self.queues.end(error)
        self.events.end(error)

    # ---- verbs --------------------------------------------------------------------------------------------------

    @property
    def largest_packet(self) -> int:
        """Bytes that the broker takes at most in one packet."""
        return self.live().maximum_packet_size

    async def subscribe(self, subscription: Subscription, qos: int, *, no_local: bool = False) -> None:
        """Subscribe. Raises `SubscriptionRefused`."""
        connection, topic_filter = self.live(), subscription.topic_filter
        identifier = self._subscriptions.add(subscription)
        if identifier is None:
            return
        options = qos | _NO_LOCAL * no_local | _NOT_RETAINED * (subscription.handler is not None)
        reason = await connection.subscribe(topic_filter, options, identifier)
        if reason < packets.ERRORS:
            self._subscriptions.confirm(topic_filter)
            return
        self._subscriptions.remove(topic_filter)
        raise SubscriptionRefused(
            f"{self.address} refused the subscription to {subscription.name}: {reason_name(reason)}. Check what the "
            f"broker's access control allows user {self._options.username!r} to read"
        )

    async def unsubscribe(self, topic_filter: bytes) -> None:
        """Undo `subscribe`."""
        connection = self.live()
        if self._subscriptions.remove(topic_filter):
            await connection.unsubscribe(topic_filter)

    def check_reason(self, reason: int, to: str, size: int) -> None:
        """Raise `PayloadTooLarge` or `PublishRefused` if the broker refused a message."""
        if reason < packets.ERRORS:
            return
        if reason == packets.PACKET_TOO_LARGE:
            raise PayloadTooLarge(
                f"{self.address} refused {size} bytes to {to}: {reason_name(reason)}. Send less, or raise the broker's "
                f"limit (mosquitto: message_size_limit)"
            )
        raise PublishRefused(
            f"{self.address} refused a message to {to}: {reason_name(reason)}. Check what the broker's access control "
            f"allows user {self._options.username!r} to write"
        )

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
        if bridged is None:
            return Subscription(share + to_topic(group), group, group, subscription, None, handler)
        return Subscription(share + bridged.topic_filter, group, group, subscription, bridged.from_device, handler)

    async def send(self, topic: bytes, payload: bytes) -> int:
        """Publish to a topic of the nodes, and return the broker's reason code."""
        reason = await self.live().publish(topic, payload, qos=1, retain=False, properties=packets.NO_PROPERTIES)
        self.check_reason(reason, topic.decode(), len(payload))
        return reason
