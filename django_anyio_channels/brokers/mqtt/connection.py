"""One connection to an MQTT broker, from CONNECT to its end.

Why not on one of the clients? Read and measured in November 2026: gmqtt 0.8 throws the reason codes of
acknowledgements away (a refused publish looks accepted, and nobody learns that a queue has no reader), raises at the
broker's Receive Maximum instead of waiting, and cannot be told to leave reconnecting alone. mqttium 1.2 hides the code
of a successful acknowledgement too, is three months old and wants Python 3.11. aiomqtt acknowledges on arrival.
paho-mqtt 2.2 has it all, and is the one that Eclipse keeps, but its loop manages 8,000 messages a second where this
file manages several times that. So paho's vocabulary is used (properties, reason codes), its socket loop is not.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

import anyio

from ...core.exceptions import DeliveryUnknown, ListenerClosed, PayloadTooLarge
from . import packets
from .packets import Ack, ConnAck, Disconnect, Packet, Publish, SubAck, reason_name

_TOGETHER = 8
"""Packets that leave in one write, if so many are made in one turn of the event loop: the broker begins meanwhile."""
_IN_A_TURN = 64
"""Packets after which who publishes at QoS 0 waits for the next turn of the event loop."""

_GOODBYE_SECONDS = 0.5

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Receipt:
    """A message that the broker wants acknowledged; an event's `Receipt`.

    MQTT wants acknowledgements in the order of the messages, so this one waits for those of all earlier messages of
    the connection, and awaiting it waits for them too.
    """

    __slots__ = ("_connection", "_told", "holders", "packet_id", "qos", "sent")

    def __init__(self, connection: MQTTConnection, qos: int, packet_id: int) -> None:
        self.qos = qos
        self.packet_id = packet_id
        self.holders = 1
        self.sent = False
        """The acknowledgement is on its way."""
        self._connection = connection
        self._told: asyncio.Future[None] | None = None

    def retain(self) -> None:
        """See `django_anyio_channels.core.events.Receipt`."""
        self.holders += 1

    def release(self) -> Receipt:
        """See `django_anyio_channels.core.events.Receipt`; awaiting the result waits for all holders."""
        self.holders -= 1
        if not self.holders:
            self._connection.acknowledge()
        return self

    def wake(self) -> None:
        """It was sent, or never will be."""
        if self._told is not None:
            self._told.set_result(None)

    def __await__(self) -> Generator[Any, Any, None]:
        if not self.sent:
            self._connection.check()
            if self._told is None:
                self._told = asyncio.get_running_loop().create_future()
            yield from asyncio.shield(self._told).__await__()
        if not self.sent:
            self._connection.check()


class MQTTConnection(asyncio.Protocol):
    """Sends and receives the packets of one connection.

    ``on_message`` is called with each message and its receipt (None at QoS 0), ``on_end`` once with the
    reason, when the connection is over; afterwards every verb raises `ListenerClosed`.
    """

    def __init__(
        self,
        address: str,
        *,
        version: int,
        probe_interval: float,
        on_message: Callable[[Publish, Receipt | None], None],
        on_end: Callable[[ListenerClosed], None],
    ) -> None:
        self.address = address
        self.version = version
        self.error: ListenerClosed | None = None
        """Why the connection is over."""
        self.largest_packet = packets.LARGEST_PACKET
        self.shares = True
        """Whether the broker has shared subscriptions."""
        self.accepted: asyncio.Future[ConnAck | None] = asyncio.get_running_loop().create_future()
        """The broker's answer to CONNECT; None if the connection ends before."""
        self._loop = asyncio.get_running_loop()
        self._decoder = packets.Decoder(version)
        self._probe_interval = probe_interval
        self._on_message = on_message
        self._on_end = on_end
        self._transport: asyncio.Transport
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._connected = False
        self._socket: Any = None
        self._out: list[bytes] = []
        self._written = 0
        """Packets of this turn of the event loop."""
        self._writable: asyncio.Future[None] | None = None
        self._last_id = random.randrange(0xFFFF)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._released: dict[int, int] = {}
        """Our QoS 2 messages that the broker has, with its reason code, until its PUBCOMP comes."""
        self._window = 0xFFFF
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._admitted = 0
        """How many have a place, and have not run since."""
        self._receipts: deque[Receipt] = deque()
        self._known: set[int] = set()
        """The broker's QoS 2 messages that it has not released yet: they may come again, and do not count then."""
        self._heard = monotonic()
        self._probing = False
        self._timer: asyncio.TimerHandle | None = None

    # ---- life ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connected = True
        self._socket = transport.get_extra_info("socket") if _QUICKACK is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._connected = False
        self._settle(self._gone)
        self.end(f"the connection broke ({exc})" if exc else "the broker closed the connection")

    def begin(self, answer: ConnAck) -> None:
        """The broker has accepted us: keep to its limits, and watch the link."""
        allowed = answer.properties
        self.shares = bool(getattr(allowed, "SharedSubscriptionAvailable", 1))
        self._window = getattr(allowed, "ReceiveMaximum", 0xFFFF)
        self.largest_packet = getattr(allowed, "MaximumPacketSize", packets.LARGEST_PACKET)
        # A broker may want to hear from us more often than we want to hear from it.
        self._probe_interval = min(self._probe_interval, getattr(allowed, "ServerKeepAlive", self._probe_interval))
        self._timer = self._loop.call_later(self._probe_interval / 2, self._probe)

    def end(self, reason: str, *, abort: bool = True) -> None:
        """The connection is over; every pending call fails. Only the first reason counts."""
        if self.error is not None:
            return
        self.error = ListenerClosed(f"{self.address}: {reason}")
        if self._timer is not None:
            self._timer.cancel()
        if self._connected and abort:
            self._transport.abort()
        self._settle(self.accepted)
        for answer in self._answers.values():
            self._settle(answer)
        while self._queue:
            self._settle(self._queue.popleft())
        while self._receipts:
            self._receipts.popleft().wake()
        if self._writable is not None:
            self._settle(self._writable)
        self._on_end(self.error)

    async def goodbye(self) -> None:
        """End the connection politely: what was written is read by the broker, and it forgets our will."""
        polite = self.error is None and self.accepted.done()
        if polite:
            self._flush()
            self._transport.write(packets.disconnect())
        self.end("this layer is disconnected", abort=not polite)
        if self._connected:
            try:
                with anyio.move_on_after(_GOODBYE_SECONDS):
                    await asyncio.shield(self._gone)
            finally:
                self._transport.abort()
            await asyncio.shield(self._gone)

    def check(self) -> None:
        """Raise if the connection is over."""
        if self.error is not None:
            raise ListenerClosed(str(self.error))

    def _over(self) -> bool:
        return self.error is not None

    def _settle(self, waiter: asyncio.Future[Any], result: object = None) -> None:
        """Wake whoever waits; for None it looks at `error`. (An exception that nobody fetches would be noise.)"""
        if not waiter.done():
            waiter.set_result(result)

    def _probe(self) -> None:
        """Half of the probe interval has passed."""
        silent = monotonic() - self._heard
        half = self._probe_interval / 2
        if self._probing and silent >= half:
            self.end(f"no answer for {self._probe_interval:g} s; the link is broken or the broker hangs")
            return
        # A ping each time, also on a link that is busy inwards: the broker counts what it hears of us.
        self._probing = True
        self._write(packets.PINGREQ)
        self._timer = self._loop.call_later(half, self._probe)

    # ---- out ----------------------------------------------------------------------------------------------------

    def open(self, packet: bytes) -> None:
        """Send CONNECT."""
        self._write(packet)

    async def publish(self, topic: bytes, payload: bytes, *, qos: int, retain: bool, properties: bytes) -> int:
        """Publish, and return the broker's reason code.

        At QoS 0 that is 0 as soon as the message was handed to the live connection. Messages leave in the order of the
        calls; at QoS 1 and 2 no more than the broker's Receive Maximum are on their way, the others wait.
        """
        self.check()
        size = packets.publish_size(topic, payload, qos=qos, properties=properties)
        if size > self.largest_packet:
            raise PayloadTooLarge(
                f"The packet has {size} bytes; {self.address} takes at most {self.largest_packet}. Send less, "
                f"or raise the broker's limit (mosquitto: max_packet_size)"
            )
        if not qos:
            packet = packets.publish(topic, payload, qos=0, retain=retain, packet_id=0, properties=properties)
            if not self._write(packet):
                await self._drain()
            return 0
        await self._enter_window()
        packet_id = self._next_id()
        self._write(packets.publish(topic, payload, qos=qos, retain=retain, packet_id=packet_id, properties=properties))
        reason = await self._answer(packet_id)
        if reason is None:
            raise DeliveryUnknown(f"{self.error}; a message was not acknowledged yet, it may or may not have arrived")
        return int(reason)

    async def subscribe(self, topic_filter: bytes, options: int, identifier: int | None) -> int:
        """Subscribe, and return the broker's reason code."""
        self.check()
        packet_id = self._next_id()
        self._write(packets.subscribe(packet_id, topic_filter, options, version=self.version, identifier=identifier))
        reasons = await self._answer(packet_id)
        self.check()
        return reasons[0]  # type: ignore[no-any-return]

    async def unsubscribe(self, topic_filter: bytes) -> None:
        """Unsubscribe; returns when the broker has done it."""
        self.check()
        packet_id = self._next_id()
        self._write(packets.unsubscribe(packet_id, topic_filter, version=self.version))
        await self._answer(packet_id)
        self.check()

    def acknowledge(self) -> None:
        """Tell the broker of every message that all have dealt with, up to the first that somebody still holds.

        In the order in which the messages came, as the protocol demands.
        """
        receipts = self._receipts
        while receipts and not receipts[0].holders and self.error is None:
            done = receipts.popleft()
            self._write(packets.ack(Packet.PUBREC if done.qos == 2 else Packet.PUBACK, done.packet_id))
            done.sent = True
            done.wake()

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 0xFFFF + 1
            if self._last_id not in self._answers:
                return self._last_id

    async def _answer(self, packet_id: int) -> Any:
        """What the broker answers to a packet; None if the connection ends before."""
        answer = self._answers[packet_id] = self._loop.create_future()
        # Cancelled, the caller goes; the identifier stays in use until the broker has answered.
        return await answer

    async def _enter_window(self) -> None:
        """Wait for one of the places that the broker allows. Whoever comes first goes first."""
        if self._in_flight < self._window and not self._queue and not self._admitted:
            self._in_flight += 1
            return
        place: asyncio.Future[None] = self._loop.create_future()
        self._queue.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._admitted -= 1
                self._leave_window()
            elif place in self._queue:
                self._queue.remove(place)
            raise
        self.check()
        self._admitted -= 1

    def _admit(self) -> None:
        while self._queue and self._in_flight < self._window:
            place = self._queue.popleft()
            if not place.done():
                self._in_flight += 1
                self._admitted += 1
                place.set_result(None)

    def _leave_window(self) -> None:
        self._in_flight -= 1
        self._admit()

    async def _drain(self) -> None:
        """Wait until what was written before is on its way."""
        await asyncio.sleep(0)
        while self._writable is not None and self.error is None:
            await asyncio.shield(self._writable)
        self.check()

    def _write(self, packet: bytes) -> bool:
        """Send: the first packet of a turn of the event loop at once, the others together, at its end at the latest.

        Returns False when so much was written that who makes more of it should wait.
        """
        self._written += 1
        self._out.append(packet)
        if self._written == 1:
            self._loop.call_soon(self._end_turn)
            self._flush()
        elif len(self._out) >= _TOGETHER:
            self._flush()
        return self._writable is None and self._written < _IN_A_TURN

    def _end_turn(self) -> None:
        self._written = 0
        self._flush()

    def _flush(self) -> None:
        if self._out and self._writable is None and self.error is None:
            out, self._out = self._out, []
            self._transport.write(b"".join(out))

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        assert writable is not None, "asyncio pauses before it resumes"
        self._settle(writable)
        self._flush()

    # ---- in -----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._over():
            return
        self._heard = monotonic()
        self._probing = False
        if self._socket is not None:
            # Without it mosquitto's Nagle waits for the kernel's delayed acknowledgement: 40 ms at low rates.
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        try:
            for packet in self._decoder.feed(data):
                if self._over():
                    return
                self._receive(packet)
        except packets.MalformedPacket as error:
            self.end(f"the broker sent what is no MQTT ({error})")

    def _receive(self, packet: packets.Incoming) -> None:
        if isinstance(packet, Publish):
            self._receive_publish(packet)
        elif isinstance(packet, Ack):
            self._receive_ack(packet)
        elif isinstance(packet, SubAck):
            self._resolve(packet.packet_id, packet.reasons)
        elif isinstance(packet, ConnAck):
            self._settle(self.accepted, packet)
        elif isinstance(packet, Disconnect):
            self.end(f"the broker ended the connection: {reason_name(Packet.DISCONNECT, packet.reason)}")

    def _receive_publish(self, message: Publish) -> None:
        if not message.qos:
            self._on_message(message, None)
            return
        if message.qos == 2:
            if message.packet_id in self._known:
                return
            self._known.add(message.packet_id)
        receipt = Receipt(self, message.qos, message.packet_id)
        self._receipts.append(receipt)
        self._on_message(message, receipt)

    def _receive_ack(self, packet: Ack) -> None:
        packet_id = packet.packet_id
        if packet.kind == Packet.PUBREL:
            self._known.discard(packet_id)
            self._write(packets.ack(Packet.PUBCOMP, packet_id))
        elif packet.kind == Packet.PUBREC and packet.reason < 0x80:
            self._released[packet_id] = packet.reason
            self._write(packets.ack(Packet.PUBREL, packet_id))
        else:
            reason = self._released.pop(packet_id, packet.reason)
            if packet_id in self._answers:
                self._leave_window()
                self._resolve(packet_id, reason)

    def _resolve(self, packet_id: int, answer: object) -> None:
        waiting = self._answers.pop(packet_id, None)
        if waiting is not None:
            self._settle(waiting, answer)
