"""Packets that the broker sends, where no broker at hand sends them so, and bytes that are no packets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_anyio_channels.brokers.mqtt import packets
from django_anyio_channels.brokers.mqtt.decoder import Decoder, MalformedPacket
from django_anyio_channels.brokers.mqtt.packets import Ack, ConnAck, Disconnect, IncomingPacket, Publish, SubAck

PUBLISH = b"\x32\x08\x00\x01t\x00\x07\x00hi"
"""A PUBLISH at QoS 1 with an empty list of properties."""

USER_PROPERTY = b"\x26\x00\x01k\x00\x01v"
PROPERTIES = (
    b"\x01\x01" + b"\x02\x00\x00\x00\x3c" + b"\x03\x00\x01c" + b"\x08\x00\x01r" + b"\x09\x00\x02\xff\xfe"
    b"\x0b\x83\x01" + b"\x23\x00\x01" + USER_PROPERTY * 2
)
"""All properties that a PUBLISH may have; the subscription identifier is 131."""
LIMITS = (
    b"\x11\x00\x00\x00\x01" + b"\x21\x00\x0a" + b"\x24\x01" + b"\x25\x00" + b"\x27\x00\x00\x10\x00" + b"\x12\x00\x02me"
    b"\x22\x00\x05" + b"\x1f\x00\x02ok" + USER_PROPERTY + b"\x28\x01" + b"\x29\x01" + b"\x2a\x00" + b"\x13\x00\x1e"
    b"\x1a\x00\x01i" + b"\x1c\x00\x01s" + b"\x15\x00\x01m" + b"\x16\x00\x01\xff"
)
"""All properties that a CONNACK may have."""
REASON = b"\x1f\x00\x03why" + USER_PROPERTY


def packet(first: int, body: bytes) -> bytes:
    return packets.pack_packet(first, body)


def listed(properties: bytes) -> bytes:
    """Properties with their length."""
    assert len(properties) < 128
    return bytes([len(properties)]) + properties


def publish(properties: bytes = b"", *, qos: int = 0, payload: bytes = b"hi") -> bytes:
    packet_id = b"\x00\x07" if qos else b""
    packed = packets.pack_properties(more=properties)
    return packet(0x30 | qos << 1, b"\x00\x01t" + packet_id + packed + payload)


SAMPLES: list[tuple[bytes, IncomingPacket | None]] = [
    (packet(0x20, b"\x01\x00" + listed(LIMITS)), ConnAck(True, 0, 10, 4096, 1, False, False, 30)),
    (packet(0x20, b"\x00\x87"), ConnAck(False, 0x87)),
    (PUBLISH, Publish(b"t", b"hi", 1, 7, ())),
    (publish(PROPERTIES), Publish(b"t", b"hi", 0, 0, (131,))),
    (publish(b"\x0b\x05\x0b\x06", qos=2), Publish(b"t", b"hi", 2, 7, (5, 6))),
    (publish(b"\x0b\xff\xff\xff\x7f", qos=1, payload=b"x" * 200), Publish(b"t", b"x" * 200, 1, 7, (0x0FFF_FFFF,))),
    (packet(0x40, b"\x00\x07"), Ack(0x40, 7, 0)),
    (packet(0x40, b"\x00\x07\x10"), Ack(0x40, 7, 0x10)),
    (packet(0x50, b"\x00\x07\x87" + listed(REASON)), Ack(0x50, 7, 0x87)),
    (packet(0x62, b"\x00\x07"), Ack(0x60, 7, 0)),
    (packet(0x70, b"\x00\x07\x92" + listed(REASON)), Ack(0x70, 7, 0x92)),
    (packet(0x90, b"\x00\x07" + listed(REASON) + b"\x01\x87"), SubAck(7, b"\x01\x87")),
    (packet(0xB0, b"\x00\x07\x00\x11"), SubAck(7, b"\x11")),
    (packet(0xD0, b""), None),
    (packet(0xE0, b""), Disconnect(0)),
    (packet(0xE0, b"\x8b" + listed(REASON)), Disconnect(0x8B)),
]
OTHERS = [packet(0xF0, b"\x18" + listed(b"\x15\x00\x01m")), packet(0x10, b"\x00\x04MQTT\x05"), packet(0x00, b"")]


def outcome(pieces: Iterable[bytes]) -> tuple[list[IncomingPacket], bool]:
    """The packets of a stream, and whether it is well-formed until its end. Raises what the decoder must not raise."""
    decoder = Decoder()
    found: list[IncomingPacket] = []
    try:
        for piece in pieces:
            found.extend(decoder.feed(piece))
    except MalformedPacket:
        return found, False
    return found, True


@pytest.mark.parametrize(("data", "expected"), SAMPLES)
def test_packets(data: bytes, expected: IncomingPacket | None) -> None:
    assert outcome([data]) == ([expected] if expected else [], True)


@pytest.mark.parametrize("code", [0, 1, 5])
def test_a_broker_that_speaks_only_mqtt_311_is_understood(code: int) -> None:
    """Its answers have no properties. 0 accepts us, 1 is about the version, 5 about the password."""
    assert outcome([bytes((0x20, 2, 0, code))]) == ([ConnAck(False, 0x84)], True)


def test_pieces_of_any_size_make_the_same_packets() -> None:
    data = PUBLISH + b"\xe0\x00" + PUBLISH
    wanted = [Publish(b"t", b"hi", 1, 7, ()), Disconnect(0), Publish(b"t", b"hi", 1, 7, ())]
    for size in range(1, len(data) + 1):
        assert outcome(data[start : start + size] for start in range(0, len(data), size)) == (wanted, True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00", "begins with 0x00: a client does not expect this packet"),
        (b"\xc0\x00", "begins with 0xc0: a client does not expect this packet"),
        (b"\x30\xff\xff\xff\xff\x01", "begins with 0x30: an integer has more than four digits"),
        (b"\x30\x08\x00\x01t\xff\xff\xff\xff\x01", "begins with 0x30: an integer has more than four digits"),
        (b"\x30\x03\x00\x09t", "begins with 0x30: "),
        (b"\x30\x05\x00\x01t\x09xmore of the next", "begins with 0x30: "),
        (b"\x30\x04\x00\x03t\x00\x00\x00", "begins with 0x30: it ends too early"),
        (b"\x32\x08\x00\x01t\x00\x00\x00hi", "begins with 0x32: packet identifier 0"),
        (b"\x36\x08\x00\x01t\x00\x07\x00hi", "begins with 0x36: QoS 3"),
        (publish(b"\x7f\x00"), "begins with 0x30: unknown property 0x7f"),
        (publish(b"\x26\x00\x01k\x00\x02v"), "begins with 0x30: a property ends after the properties"),
        (b"\x40\x01\x00", "begins with 0x40: "),
        (b"\x90\x03\x00\x07\x00", "begins with 0x90: it has no reason code"),
        (packet(0x20, b"\x00\x00" + listed(b"\x21\x00\x00")), "begins with 0x20: a limit of 0"),
        (packet(0x20, b"\x00\x00" + listed(b"\x27\x00\x00\x00\x00")), "begins with 0x20: a limit of 0"),
    ],
)
def test_malformed_packets_are_named(data: bytes, message: str) -> None:
    with pytest.raises(MalformedPacket, match=message):
        list(Decoder().feed(data))


BYTE_ORDER_MARK = "\ufeff".encode()


@pytest.mark.parametrize(
    "properties",
    [
        b"\x26\x00\x03" + BYTE_ORDER_MARK + b"\x00\x03" + BYTE_ORDER_MARK,
        b"\x03\x00\x03" + BYTE_ORDER_MARK,
        b"\x08\x00\x03" + BYTE_ORDER_MARK,
    ],
)
def test_u_feff_is_a_character_like_others(properties: bytes) -> None:
    """Section 1.5.4: it is never to be skipped or stripped. paho-mqtt raises."""
    assert outcome([publish(properties + b"\x0b\x05")]) == ([Publish(b"t", b"hi", 0, 0, (5,))], True)


def test_text_that_is_not_utf_8_is_skipped() -> None:
    """The Rust library mqtt5 panics."""
    assert outcome([publish(b"\x03\x00\x01\xff\x26\x00\x01\xc3\x00\x00")]) == ([Publish(b"t", b"hi", 0, 0, ())], True)


# ---- any bytes ---------------------------------------------------------------------------------------------------

streams = st.lists(st.sampled_from([sample for sample, _ in SAMPLES] + OTHERS), min_size=1, max_size=4).map(b"".join)
changes = st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4)


def changed(data: bytes, changes: list[tuple[int, int]], begin: int = 0) -> bytes:
    mutable = bytearray(data)
    for index, byte in changes:
        if len(data) > begin:
            mutable[begin + index % (len(data) - begin)] = byte
    return bytes(mutable)


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_but_malformed_packet(data: bytes) -> None:
    outcome([data])


@settings(max_examples=300)
@given(streams, changes, st.integers(0, 20), st.integers(1, 50))
def test_streams_that_were_changed_cut_and_split(
    stream: bytes, changes: list[tuple[int, int]], cut: int, size: int
) -> None:
    data = changed(stream, changes)
    data = data[: len(data) - cut]
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert outcome(pieces) == outcome([data])


@settings(max_examples=300)
@given(st.sampled_from([sample for sample, _ in SAMPLES] + OTHERS), changes, streams)
def test_a_packet_is_read_to_its_end_and_no_further(sample: bytes, changes: list[tuple[int, int]], rest: bytes) -> None:
    begin = 3 if sample[1] >= 128 else 2  # the length stays
    data = changed(sample, changes, begin)
    (alone, ok), (together, _) = outcome([data]), outcome([data + rest])
    assert together[: len(alone)] == alone
    assert ok or together == []


class CountedBytes(bytes):
    """Counts the bytes that are read of it, and of its slices."""

    consumed = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        found = super().__getitem__(key)
        CountedBytes.consumed += len(found) if isinstance(found, bytes) else 1
        return CountedBytes(found) if isinstance(found, bytes) else found


@pytest.mark.parametrize(
    ("encoded", "count"),
    [(b"\x26\0\0\0\0", 80_000), (b"\x0b\x05", 8_000), (b"\x03\0\0", 8_000), (b"\x01\1", 8_000)],
)
def test_the_work_is_linear_in_the_number_of_properties(encoded: bytes, count: int) -> None:
    def work(properties: int) -> float:
        CountedBytes.consumed = 0
        assert outcome([CountedBytes(publish(encoded * properties))])[1]
        return CountedBytes.consumed / properties

    assert work(count) == pytest.approx(work(count // 2), rel=0.01)
    assert work(count) < 20
