"""The entries of a group's history, and their positions, which a browser may bring back."""

from __future__ import annotations

import re
from reprlib import repr as short_repr
from typing import NamedTuple

from ...core.exceptions import InvalidPosition

BEGINNING = b"0-0"
"""The `HistoryEntry.previous_id` of the first entry of an epoch."""

NO_EPOCH = b"00000000"
"""The epoch of a group whose position the server does not know: nothing was published to it."""

NOWHERE = b"%b-%b" % (NO_EPOCH, BEGINNING)
"""The position of such a group."""

_ID = rb"[0-9]{1,13}-[0-9]{1,20}"
"""Whatever counts: the first number may be milliseconds until the year 2286."""
_LARGEST_NUMBER = 2**64 - 1
_POSITION = rb"[0-9a-f]{8}-%b" % _ID
_WHOLE_POSITION = re.compile(_POSITION)
_EPOCH = 8
EPOCH_PREFIX = _EPOCH + 1
"""Bytes of a position before the id of its entry."""


class HistoryEntry(NamedTuple):
    """One message and its position.

    A position is ``epoch-number-number``. An epoch ends when the broker loses a group's position; another one begins
    with the next message. The rest, the id of the entry, is unique within the epoch and grows with each message; it
    may be made of a clock.
    """

    position: bytes
    previous_id: bytes
    """The id of the entry before."""
    message: bytes


match_entry = re.compile(rb"(%b) (%b)\n(.*)" % (_POSITION, _ID), re.DOTALL).fullmatch
"""Match an entry as it is published, ``position previous_id\\nmessage``; the groups are `HistoryEntry`'s fields."""


def read_position(text: str) -> bytes:
    """Return a position. It may come from a browser, so it may be anything. Raises `InvalidPosition`."""
    if text.isascii() and _WHOLE_POSITION.fullmatch(text.encode()) and int(text.rpartition("-")[2]) <= _LARGEST_NUMBER:
        return text.encode()
    raise InvalidPosition(f"{short_repr(text)} is no position; take Event.position, or what publish returned")


def epoch_of(position: bytes) -> bytes:
    return position[:_EPOCH]


def entry_id(position: bytes) -> bytes:
    """Return what is unique within an epoch, see `HistoryEntry`."""
    return position[EPOCH_PREFIX:]


def sort_key(position: bytes) -> tuple[int, int]:
    """Return what grows with each message of an epoch."""
    milliseconds, _, number = entry_id(position).partition(b"-")
    return int(milliseconds), int(number)


def is_after(position: bytes, other: bytes) -> bool:
    """Return whether a position comes after another one of its group; in another epoch, each does."""
    return epoch_of(position) != epoch_of(other) or sort_key(position) > sort_key(other)
