"""Redis Cluster's slots: where a name is, and names for a place."""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from itertools import count

SLOTS = 16384


def decisive_part(name: bytes) -> bytes:
    """What decides about the slot of a name: what stands in its first braces, if anything does, or else all of it."""
    opened = name.find(b"{")
    if opened >= 0:
        closed = name.find(b"}", opened + 1)
        if closed > opened + 1:
            return name[opened + 1 : closed]
    return name


def slot_of(name: bytes) -> int:
    """The slot of a key or a sharded channel."""
    return crc_hqx(decisive_part(name), 0) % SLOTS


@lru_cache(maxsize=1000)
def tag_in(slot: int) -> bytes:
    """What in braces leads to this slot; the same in every program."""
    return next(tag for number in count() if slot_of(tag := b"%d" % number) == slot)
