"""The entries of a group's history: their positions, and how they are published (``PUBLISH``) and kept (``XADD``)."""

from __future__ import annotations

import re
from typing import NamedTuple

BEGINNING = b"0-0"
"""The `HistoryEntry.previous_id` of the first entry of an epoch."""

NO_EPOCH = b"00000000"
"""The epoch of a group whose position the server does not know: nothing was published to it."""

_ID = rb"[0-9]{1,13}-[0-9]{1,20}"
"""Milliseconds until the year 2286."""
_LARGEST_NUMBER = 2**64 - 1
"""That Redis takes for an id."""
_POSITION = rb"[0-9a-f]{8}-%b" % _ID
_WHOLE_POSITION = re.compile(_POSITION)
_EPOCH = 8
EPOCH_PREFIX = _EPOCH + 1
"""Bytes of a position before the id of its entry."""


class HistoryEntry(NamedTuple):
    """One message and its position.

    A position is ``epoch-milliseconds-number``. An epoch ends when the server loses a group's position. The rest is
    unique within the epoch: the id of the stream's entry, which the server makes of its clock and, within one
    millisecond, of a number.
    """

    position: bytes
    previous_id: bytes
    """The id of the entry before."""
    message: bytes


match_entry = re.compile(rb"(%b) (%b)\n(.*)" % (_POSITION, _ID), re.DOTALL).fullmatch
"""Match an entry as it is published; the groups are the fields of `HistoryEntry`."""


def is_position(text: object) -> bool:
    """Return whether this may be a position. It may come from a browser, so it may be anything."""
    if not isinstance(text, str) or not text.isascii() or not _WHOLE_POSITION.fullmatch(text.encode()):
        return False
    return int(text.rpartition("-")[2]) <= _LARGEST_NUMBER


def epoch_of(position: bytes) -> bytes:
    return position[:_EPOCH]


def entry_id(position: bytes) -> bytes:
    """Return the id of the stream's entry, which is unique within an epoch."""
    return position[EPOCH_PREFIX:]


def sort_key(position: bytes) -> tuple[int, int]:
    """Return what grows with each message of an epoch."""
    milliseconds, _, number = entry_id(position).partition(b"-")
    return int(milliseconds), int(number)
