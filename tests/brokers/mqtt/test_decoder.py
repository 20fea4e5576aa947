"""Packets to bytes and bytes to packets, where no broker at hand writes them so."""

from __future__ import annotations

import pytest

from django_anyio_channels.brokers.mqtt.decoder import Decoder, MalformedPacket
from django_anyio_channels.brokers.mqtt.packets import Disconnect, Publish

PUBLISH = b"\x32\x08\x00\x01t\x00\x07\x00hi"
"""A PUBLISH at QoS 1 with an empty list of properties."""


def test_pieces_of_any_size_make_the_same_packets() -> None:
    data = PUBLISH + b"\xe0\x00" + PUBLISH
    wanted = [Publish(b"t", b"hi", 1, 7, ()), Disconnect(0), Publish(b"t", b"hi", 1, 7, ())]
    for size in range(1, len(data) + 1):
        decoder = Decoder(5)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [packet for piece in pieces for packet in decoder.feed(piece)] == wanted


def test_properties_before_the_identifier_of_the_subscription_are_read_too() -> None:
    properties = b"\x08" + b"\x02\x00\x00\x00\x3c" + b"\x0b\x83\x01"  # seconds until it expires; subscription 131
    data = b"\x30" + bytes([3 + len(properties) + 2]) + b"\x00\x01t" + properties + b"hi"
    assert list(Decoder(5).feed(data)) == [Publish(b"t", b"hi", 0, 0, [131])]


def test_several_identifiers_of_subscriptions_are_read() -> None:
    properties = b"\x04" + b"\x0b\x05" + b"\x0b\x06"
    data = b"\x30" + bytes([3 + len(properties) + 2]) + b"\x00\x01t" + properties + b"hi"
    assert list(Decoder(5).feed(data)) == [Publish(b"t", b"hi", 0, 0, [5, 6])]


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
        (b"\x40\x01\x00", "begins with 0x40: "),
    ],
)
def test_what_is_no_mqtt_is_named(data: bytes, message: str) -> None:
    with pytest.raises(MalformedPacket, match=message):
        list(Decoder(5).feed(data))
