"""MQTT 5 control packets, and how to encode them; `decoder` decodes them, and says why no library does."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

LARGEST_PACKET = 268_435_455
"""Bytes after the fixed header that the protocol can express."""
LONGEST_TOPIC = 65_535
"""Bytes of a topic, and of any other text."""

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(0x10, 0x80, 0x10)
SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 0x90, 0xB0, 0xD0, 0xE0
"""The types of packets, as the upper half of the first byte."""
PINGREQ_PACKET = b"\xc0\x00"
DISCONNECT_PACKET = b"\xe0\x00"
"""A normal disconnection: the broker discards our will."""
NO_PROPERTIES = b"\0"
NO_MATCHING_SUBSCRIBERS = 0x10
UNSUPPORTED_PROTOCOL_VERSION = 0x84
PACKET_TOO_LARGE = 0x95
QOS_NOT_SUPPORTED = 0x9B
ERRORS = 0x80
"""The first reason code that is an error."""

_pair = struct.Struct("!H")
_INTEGER_SIZES = {0x01: 1, 0x02: 4, 0x11: 4, 0x18: 4, 0x21: 2}
"""The size in bytes of the properties that we send and that are integers."""

# fmt: off
_ERROR_NAMES = (
    "Unspecified error", "Malformed packet", "Protocol error", "Implementation specific error",
    "Unsupported protocol version", "Client identifier not valid", "Bad user name or password", "Not authorized",
    "Server unavailable", "Server busy", "Banned", "Server shutting down", "Bad authentication method",
    "Keep alive timeout", "Session taken over", "Topic filter invalid", "Topic name invalid",
    "Packet identifier in use", "Packet identifier not found", "Receive maximum exceeded", "Topic alias invalid",
    "Packet too large", "Message rate too high", "Quota exceeded", "Administrative action", "Payload format invalid",
    "Retain not supported", "QoS not supported", "Use another server", "Server moved",
    "Shared subscriptions not supported", "Connection rate exceeded", "Maximum connect time",
    "Subscription identifiers not supported", "Wildcard subscriptions not supported",
)
"""MQTT 5, section 2.4: the reason codes from 0x80."""
# fmt: on


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes when our connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    delay: int = 0
    """Seconds that the broker waits for us to reconnect before it publishes the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a PUBLISH (MQTT 5, section 3.3.2.3)."""

    payload_format_indicator: int | None = None
    """1: the payload is text in UTF-8."""
    message_expiry_interval: int | None = None
    """Seconds."""
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: Sequence[tuple[str, str]] = ()

    def pack(self) -> bytes:
        """Encode the properties with their length, as in a packet. Raises `ValueError` if one is too large."""
        users = b"".join(b"\x26" + pack_text(name) + pack_text(value) for name, value in self.user_properties)
        return pack_properties(
            (0x01, self.payload_format_indicator),
            (0x02, self.message_expiry_interval),
            (0x03, self.content_type),
            (0x08, self.response_topic),
            (0x09, self.correlation_data),
            more=users,
        )


class ConnAck(NamedTuple):
    """CONNACK, with the limits that the broker sets."""

    session_present: bool
    reason: int
    receive_maximum: int = 0xFFFF
    maximum_packet_size: int = LARGEST_PACKET
    maximum_qos: int = 2
    retain_available: bool = True
    shared_subscriptions: bool = True
    server_keep_alive: int | None = None
    """Seconds; overrides what the CONNECT says."""


class Publish(NamedTuple):
    """PUBLISH."""

    topic: bytes
    payload: bytes
    qos: int
    packet_id: int
    subscriptions: tuple[int, ...]
    """The identifiers of the subscriptions that it matches."""


class Ack(NamedTuple):
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: int
    packet_id: int
    reason: int


class SubAck(NamedTuple):
    """SUBACK or UNSUBACK."""

    packet_id: int
    reasons: bytes


class Disconnect(NamedTuple):
    """DISCONNECT: the broker ends the connection."""

    reason: int


IncomingPacket = ConnAck | Publish | Ack | SubAck | Disconnect


def reason_name(reason: int) -> str:
    """Return the name of a reason code that is an error."""
    index = reason - ERRORS
    return f"{_ERROR_NAMES[index] if index < len(_ERROR_NAMES) else 'reason'} (0x{reason:02x})"


def _integer(value: int) -> bytes:
    """Encode a variable byte integer."""
    return bytes((value,)) if value < 128 else bytes((value & 0x7F | 0x80,)) + _integer(value >> 7)


def pack_text(value: str | bytes) -> bytes:
    encoded = value if isinstance(value, bytes) else value.encode()
    if len(encoded) > LONGEST_TOPIC:
        raise ValueError(f"MQTT texts have at most 65535 bytes in UTF-8, not {len(encoded)}")
    return _pair.pack(len(encoded)) + encoded


def pack_packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + _integer(len(body)) + body


def pack_properties(*properties: tuple[int, int | str | bytes | None], more: bytes = b"") -> bytes:
    """Encode properties, except those that are None, with their length. ``more`` are encoded already."""
    packed = b""
    for identifier, value in properties:
        if value is not None:
            packed += bytes((identifier,))
            packed += value.to_bytes(_INTEGER_SIZES[identifier], "big") if isinstance(value, int) else pack_text(value)
    packed += more
    return _integer(len(packed)) + packed


def publish(topic: bytes, payload: bytes, *, qos: int, retain: bool, packet_id: int, properties: bytes) -> bytes:
    """Encode a PUBLISH; ``properties`` as `Properties.pack` encodes them."""
    head = _pair.pack(len(topic)) + topic
    if qos:
        head += _pair.pack(packet_id)
    head += properties
    return b"".join((bytes((0x30 | qos << 1 | retain,)), _integer(len(head) + len(payload)), head, payload))


def publish_size(topic: bytes, payload: bytes, *, qos: int, properties: bytes) -> int:
    """Return the size in bytes of the packet that `publish` returns."""
    body = 2 + len(topic) + 2 * (qos > 0) + len(properties) + len(payload)
    return 1 + len(_integer(body)) + body


def ack(kind: int, packet_id: int) -> bytes:
    """Encode a PUBACK, PUBREC, PUBREL or PUBCOMP: success."""
    return bytes((kind | 0x02 if kind == PUBREL else kind, 2)) + _pair.pack(packet_id)


def subscribe(packet_id: int, topic_filter: bytes, options: int, identifier: int) -> bytes:
    """Encode a SUBSCRIBE to one filter; ``options`` is the byte of QoS, no local, retain as published and handling."""
    properties = pack_properties(more=b"\x0b" + _integer(identifier))
    return pack_packet(0x82, _pair.pack(packet_id), properties, pack_text(topic_filter), bytes((options,)))


def unsubscribe(packet_id: int, topic_filter: bytes) -> bytes:
    """Encode an UNSUBSCRIBE from one filter."""
    return pack_packet(0xA2, _pair.pack(packet_id), NO_PROPERTIES, pack_text(topic_filter))
