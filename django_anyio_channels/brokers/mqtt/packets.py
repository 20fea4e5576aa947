"""What goes over an MQTT wire: packets to bytes, bytes to packets. No sockets, no waiting.

Properties, reason codes and subscribe options are those of `paho-mqtt <https://pypi.org/project/paho-mqtt/>`_, so
that what a caller passes in (``Properties``) is what the MQTT world knows. `mqtt_connection` says why its client is
not used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ...core.exceptions import MissingDriver

try:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
    from paho.mqtt.subscribeoptions import MQTTException
except ImportError as error:
    raise MissingDriver("MQTT needs the paho-mqtt package: pip install django-anyio-channels[mqtt]") from error

__all__ = ["Decoder", "MalformedPacket", "Packet", "Properties", "Will"]

LARGEST_PACKET = 268_435_455
"""Bytes after the fixed header that the protocol can express."""

PINGREQ = b"\xc0\x00"
NO_MATCHING_SUBSCRIBERS = 0x10
PACKET_TOO_LARGE = 0x95
_SUBSCRIPTION_IDENTIFIER = 0x0B
_pair = struct.Struct("!H")


class MalformedPacket(ValueError):
    """The peer sent what is no MQTT."""


class Packet(IntEnum):
    """The types of packets, as in the upper half of their first byte."""

    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x30
    PUBACK = 0x40
    PUBREC = 0x50
    PUBREL = 0x60
    PUBCOMP = 0x70
    SUBSCRIBE = 0x80
    SUBACK = 0x90
    UNSUBSCRIBE = 0xA0
    UNSUBACK = 0xB0
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0
    AUTH = 0xF0


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when our connection ends without a goodbye."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    delay: int = 0
    """Seconds to wait for us to come back before publishing it (MQTT 5)."""


class ConnAck(NamedTuple):
    session_present: bool
    reason: int
    properties: Properties


class Publish(NamedTuple):
    topic: bytes
    payload: bytes
    qos: int
    packet_id: int
    subscriptions: Sequence[int]
    """The identifiers of the subscriptions that it matches."""


class Ack(NamedTuple):
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: int
    packet_id: int
    reason: int


class SubAck(NamedTuple):
    """SUBACK or UNSUBACK. (An UNSUBACK of MQTT 3.1.1 has no reasons.)"""

    kind: int
    packet_id: int
    reasons: bytes


class Pong(NamedTuple):
    """PINGRESP."""


class Disconnect(NamedTuple):
    """The broker ends the connection (MQTT 5)."""

    reason: int


Incoming = ConnAck | Publish | Ack | SubAck | Pong | Disconnect


def reason_name(kind: int, reason: int) -> str:
    """What a reason code means, in words."""
    try:
        return f"{ReasonCode(kind >> 4, identifier=reason).getName()} (0x{reason:02x})"
    except (KeyError, ValueError):
        return f"reason 0x{reason:02x}"


# ---- out ---------------------------------------------------------------------------------------------------------


def _integer(value: int) -> bytes:
    """A variable byte integer."""
    if value < 128:
        return bytes((value,))
    digits = bytearray()
    while True:
        value, digit = divmod(value, 128)
        digits.append(digit | 0x80 if value else digit)
        if not value:
            return bytes(digits)


def _text(value: str | bytes) -> bytes:
    encoded = value if isinstance(value, bytes) else value.encode()
    if len(encoded) > 0xFFFF:
        raise ValueError(f"MQTT texts have at most 65535 bytes in UTF-8, not {len(encoded)}: {encoded[:40]!r}...")
    return _pair.pack(len(encoded)) + encoded


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + _integer(len(body)) + body


def pack_properties(properties: Properties) -> bytes:
    """Properties as they stand in a packet, with their length."""
    return bytes(properties.pack())  # type: ignore[no-untyped-call]


def connect(
    *,
    version: int,
    client_id: str,
    username: str | None,
    password: str | None,
    clean_start: bool,
    keepalive: int,
    session_expiry: int,
    receive_maximum: int,
    will: Will | None,
) -> bytes:
    """CONNECT. ``version`` is 5 or 4 (MQTT 3.1.1)."""
    flags = 0x02 * clean_start | 0x80 * (username is not None) | 0x40 * (password is not None)
    properties = will_properties = b""
    if version == 5:
        wanted = _properties(PacketTypes.CONNECT)
        wanted.ReceiveMaximum = receive_maximum
        if session_expiry:
            wanted.SessionExpiryInterval = session_expiry
        properties = pack_properties(wanted)
        will_properties = _will_properties(will)
    parts = [_text(b"MQTT"), bytes((version, 0)), _pair.pack(keepalive), properties, _text(client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | 0x20 * will.retain
        parts += [will_properties, _text(will.topic), _text(will.payload)]
    parts[1] = bytes((version, flags))
    parts += [_text(secret) for secret in (username, password) if secret is not None]
    return _packet(Packet.CONNECT, *parts)


def _will_properties(will: Will | None) -> bytes:
    properties = _properties(PacketTypes.WILLMESSAGE)
    if will is not None and will.delay:
        properties.WillDelayInterval = will.delay
    return pack_properties(properties)


def publish(topic: bytes, payload: bytes, *, qos: int, retain: bool, packet_id: int, properties: bytes) -> bytes:
    """PUBLISH; ``properties`` as `pack_properties` makes them, empty for MQTT 3.1.1."""
    head = _pair.pack(len(topic)) + topic
    if qos:
        head += _pair.pack(packet_id)
    head += properties
    return b"".join((bytes((0x30 | qos << 1 | retain,)), _integer(len(head) + len(payload)), head, payload))


def publish_size(topic: bytes, payload: bytes, *, qos: int, properties: bytes) -> int:
    """How many bytes the packet of `publish` has."""
    body = 2 + len(topic) + 2 * (qos > 0) + len(properties) + len(payload)
    return 1 + len(_integer(body)) + body


def ack(kind: Packet, packet_id: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP: success."""
    return bytes((kind | 0x02 if kind == Packet.PUBREL else kind, 2)) + _pair.pack(packet_id)


def subscribe(packet_id: int, topic_filter: bytes, options: int, *, version: int, identifier: int | None) -> bytes:
    """SUBSCRIBE to one filter; ``options`` is the byte of QoS, no_local, retain as published and retain handling."""
    properties = b""
    if version == 5:
        tag = b"" if identifier is None else bytes((_SUBSCRIPTION_IDENTIFIER,)) + _integer(identifier)
        properties = _integer(len(tag)) + tag
    chosen = options if version == 5 else options & 0x03
    return _packet(0x82, _pair.pack(packet_id), properties, _text(topic_filter), bytes((chosen,)))


def unsubscribe(packet_id: int, topic_filter: bytes, *, version: int) -> bytes:
    """UNSUBSCRIBE from one filter."""
    return _packet(0xA2, _pair.pack(packet_id), b"\0" if version == 5 else b"", _text(topic_filter))


def disconnect() -> bytes:
    """DISCONNECT: a normal goodbye; the broker forgets our will."""
    return b"\xe0\x00"


# ---- in ----------------------------------------------------------------------------------------------------------


class Decoder:
    """Bytes in pieces of any size, in; packets, out."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._buffer = bytearray()
        self._needed = 2

    def feed(self, data: bytes) -> Iterator[Incoming]:
        """The packets that are complete by now. Raises `MalformedPacket`."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._needed:
            return
        whole = bytes(buffer)
        buffer.clear()
        position, end = 0, len(whole)
        while (bounds := self._bounds(whole, position, end)) is not None:
            body, after = bounds
            try:
                packet = self._decode(whole[position], whole, body, after)
            except (struct.error, IndexError, KeyError, ValueError, MQTTException) as error:
                raise MalformedPacket(f"a packet that begins with 0x{whole[position]:02x}: {error}") from error
            position = after
            yield packet
        buffer += whole[position:]

    def _bounds(self, data: bytes, position: int, end: int) -> tuple[int, int] | None:
        """Where the body of the packet at ``position`` begins and ends; None if it is not complete."""
        length = shift = 0
        for index in range(position + 1, min(position + 5, end)):
            digit = data[index]
            length |= (digit & 0x7F) << shift
            if digit < 128:
                body = index + 1
                if body + length > end:
                    self._needed = body + length - position
                    return None
                return body, body + length
            shift += 7
        if end - position >= 5:
            raise MalformedPacket("the length of a packet has more than four digits")
        self._needed = end - position + 1
        return None

    def _decode(self, first: int, data: bytes, start: int, end: int) -> Incoming:
        kind = first & 0xF0
        if kind == Packet.PUBLISH:
            return self._decode_publish(first, data, start, end)
        if kind in (Packet.PUBACK, Packet.PUBREC, Packet.PUBREL, Packet.PUBCOMP):
            return Ack(kind, _pair.unpack_from(data, start)[0], data[start + 2] if end - start > 2 else 0)
        if kind in (Packet.SUBACK, Packet.UNSUBACK):
            return self._decode_suback(kind, data, start, end)
        if kind == Packet.PINGRESP:
            return Pong()
        if kind == Packet.CONNACK:
            packed = data[start + 2 : end] if self._version == 5 and end - start > 2 else b"\0"
            return ConnAck(bool(data[start] & 1), data[start + 1], _unpack(PacketTypes.CONNACK, packed))
        if kind == Packet.DISCONNECT:
            return Disconnect(data[start] if end > start else 0)
        raise ValueError("a client does not expect this packet")

    def _decode_publish(self, first: int, data: bytes, start: int, end: int) -> Publish:
        position = start + 2 + _pair.unpack_from(data, start)[0]
        topic = data[start + 2 : position]
        qos = first >> 1 & 0x03
        packet_id = 0
        if qos:
            packet_id = _pair.unpack_from(data, position)[0]
            position += 2
        identifiers: Sequence[int] = ()
        if self._version == 5:
            identifiers, position = self._decode_properties(data, position)
        if position > end:
            raise ValueError("it ends too early")
        return Publish(topic, data[position:end], qos, packet_id, identifiers)

    def _decode_properties(self, data: bytes, position: int) -> tuple[Sequence[int], int]:
        length, start = _read_integer(data, position)
        after = start + length
        if not length:
            return (), after
        if data[start] == _SUBSCRIPTION_IDENTIFIER:
            identifier, read = _read_integer(data, start + 1)
            if read == after:
                # Nearly every message: nothing but the one identifier. paho's parser costs twenty times as much.
                return (identifier,), after
        properties = _unpack(PacketTypes.PUBLISH, data[position:after])
        return getattr(properties, "SubscriptionIdentifier", ()), after

    def _decode_suback(self, kind: int, data: bytes, start: int, end: int) -> SubAck:
        position = start + 2
        if self._version == 5:
            length, position = _read_integer(data, position)
            position += length
        return SubAck(kind, _pair.unpack_from(data, start)[0], data[position:end])


def _read_integer(data: bytes, position: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends."""
    value = shift = 0
    for index in range(position, position + 4):
        digit = data[index]
        value |= (digit & 0x7F) << shift
        if digit < 128:
            return value, index + 1
        shift += 7
    raise ValueError("an integer has more than four digits")


def _properties(kind: int) -> Properties:
    return Properties(kind)  # type: ignore[no-untyped-call]


def _unpack(kind: int, packed: bytes) -> Properties:
    properties = _properties(kind)
    properties.unpack(packed)  # type: ignore[no-untyped-call]
    return properties
