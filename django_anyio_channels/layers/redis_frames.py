"""How a message with a place in a history goes over the wire and lies in the stream."""

from __future__ import annotations

import re
from typing import NamedTuple

BEGINNING = b"0-0"
"""What stands in the place of "the one before" in the first frame of an epoch."""

_POSITION = rb"[0-9a-f]{8}-[0-9]{1,16}-[0-9]{1,16}"
_FRAME = re.compile(rb"(%b) ([0-9]{1,16}-[0-9]{1,16})\n" % _POSITION)
_WHOLE_POSITION = re.compile(_POSITION)
_EPOCH = 8


class Frame(NamedTuple):
    """One message and its place.

    A position is ``epoch-milliseconds-offset``. The offset counts the messages of a group in one epoch; an epoch ends
    when the server loses the count. What follows the epoch is the identity within it, and the entry of the stream.
    """

    position: bytes
    before: bytes
    """The identity of the one before it."""
    message: bytes


def read_frame(data: bytes) -> Frame | None:
    """The frame that was published; None if it is none."""
    head = _FRAME.match(data)
    return None if head is None else Frame(head[1], head[2], data[head.end() :])


def is_position(text: bytes) -> bool:
    """Whether this may be a position."""
    return _WHOLE_POSITION.fullmatch(text) is not None


def epoch_of(position: bytes) -> bytes:
    return position[:_EPOCH]


def identity_of(position: bytes) -> bytes:
    """What is unique within an epoch: the id of the stream's entry."""
    return position[_EPOCH + 1 :]


def offset_of(position: bytes) -> int:
    return int(position.rpartition(b"-")[2])
