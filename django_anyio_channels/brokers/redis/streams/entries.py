"""How a message with a place in a history goes over the wire and lies in the stream."""

from __future__ import annotations

import re
from typing import NamedTuple

BEGINNING = b"0-0"
"""What stands in the place of "the one before" in the first frame of an epoch."""

_IDENTITY = rb"[0-9]{1,20}-[0-9]{1,20}"
_POSITION = rb"[0-9a-f]{8}-%b" % _IDENTITY
_FRAME = re.compile(rb"(%b) (%b)\n" % (_POSITION, _IDENTITY))
_WHOLE_POSITION = re.compile(_POSITION)
_EPOCH = 8


class Frame(NamedTuple):
    """One message and its place.

    A position is ``epoch-milliseconds-number``. An epoch ends when the server loses a group's position. What follows it
    is the identity within the epoch: the id of the stream's entry, which the server makes of its clock and, within one
    millisecond, of a number.
    """

    position: bytes
    before: bytes
    """The identity of the one before it."""
    message: bytes

    def follows(self, position: bytes) -> bool:
        """Whether this is the next one after ``position``; in another epoch an identity may come once more."""
        return self.position[: _EPOCH + 1] + self.before == position


def read_frame(data: bytes) -> Frame | None:
    """The frame that was published; None if it is none."""
    head = _FRAME.match(data)
    return None if head is None else Frame(head[1], head[2], data[head.end() :])


def is_position(text: object) -> bool:
    """Whether this may be a position. It may come from a browser, so it may be anything."""
    return isinstance(text, str) and text.isascii() and _WHOLE_POSITION.fullmatch(text.encode()) is not None


def epoch_of(position: bytes) -> bytes:
    return position[:_EPOCH]


def identity_of(position: bytes) -> bytes:
    """What is unique within an epoch: the id of the stream's entry."""
    return position[_EPOCH + 1 :]


def order_of(position: bytes) -> tuple[int, int]:
    """What grows with each message of an epoch."""
    milliseconds, _, number = identity_of(position).partition(b"-")
    return int(milliseconds), int(number)
