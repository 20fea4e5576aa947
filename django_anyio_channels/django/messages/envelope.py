"""The envelope around a message that is not simply for all members of a group: a marker, a header, the body.

An ordinary message has none. The marker is a byte that MessagePack never uses, so that one comparison tells an envelope
from a message. The header is a MessagePack map with short keys; keys that this version does not know are ignored.

    0xc1, 2 bytes of the header's length (big endian), header, body

Whoever may publish at the broker can write one, so it is parsed with limits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import msgspec

from ...core.exceptions import DecodeError
from ...core.serializers import MARKER
from ..names import CHANNEL_NAME

_LENGTH = 2
_START = len(MARKER) + _LENGTH
_NAME_LENGTH = 100
"""Names of groups and channels are shorter, as Channels demands."""

MOST_NAMES = 256
"""How many channels a message may exclude, and how many groups it may go to."""

Names = Annotated[list[Annotated[str, msgspec.Meta(max_length=_NAME_LENGTH)]], msgspec.Meta(max_length=MOST_NAMES)]


class Header(msgspec.Struct, omit_defaults=True):
    """What an envelope says of its body. It is never changed: equal ones may be one object."""

    exclude: Names = msgspec.field(name="x", default_factory=list)
    """The channels that do not get it."""
    groups: Names = msgspec.field(name="g", default_factory=list)
    """All groups that a copy of it goes to, if there are several; a member of more than one gets it once."""
    id: Annotated[bytes, msgspec.Meta(max_length=16)] = msgspec.field(name="i", default=b"")
    """What is equal in the copies for several groups, and unique otherwise."""
    urgent: bool = msgspec.field(name="u", default=False)
    """It is handled before what waits, whatever the capacity, and is no part of a group's history."""

    ready: bool = msgspec.field(name="r", default=False)
    """It is a ready frame, which is sent to WebSockets as it is."""


READY = Header(ready=True)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode
_decode_again = lru_cache(maxsize=256)(_decode)
_SMALL = 256
"""Bytes of headers that are remembered: who sends to all others excludes the same channel again and again."""


def close_envelope(header: Header, body: bytes) -> bytes:
    """Return an envelope."""
    encoded = _encode(header)
    return b"%b%b%b%b" % (MARKER, len(encoded).to_bytes(_LENGTH, "big"), encoded, body)


@lru_cache(maxsize=1024)
def beginning_without(channel: str) -> bytes | None:
    """Return the envelope, up to its body, of a message that excludes one channel; None for an invalid name."""
    if len(channel) >= _NAME_LENGTH or not CHANNEL_NAME.fullmatch(channel):
        return None
    return close_envelope(Header(exclude=[channel]), b"")


def open_envelope(envelope: bytes) -> tuple[Header, bytes]:
    """Return header and body of what begins with `MARKER`. Raises `DecodeError`."""
    end = _START + int.from_bytes(envelope[len(MARKER) : _START], "big")
    if end > len(envelope):
        raise DecodeError("it is the beginning of an envelope")
    try:
        header = (_decode_again if end <= _SMALL else _decode)(envelope[_START:end])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DecodeError(f"it is not an envelope that this version knows ({error})") from error
    return header, envelope[end:]


def payload_for(channel: str, payload: bytes) -> bytes | None:
    """Return what a normal channel that is in the group gets of a payload, with or without an envelope."""
    if payload[:1] != MARKER:
        return payload
    header, body = open_envelope(payload)
    return None if channel in header.exclude else body
