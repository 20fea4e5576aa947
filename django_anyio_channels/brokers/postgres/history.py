"""The history of each group in a table: its limits, what is read of it, and what comes live by NOTIFY."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ...core.exceptions import DecodeError
from ..common.batching import Batcher
from ..common.entries import BEGINNING, EPOCH_PREFIX, NO_EPOCH, HistoryEntry
from ..common.history import HistoryPage
from ..common.history_sync import HistorySync
from . import statements as sql
from .access import TableAccess, maintain
from .connection import Connection
from .payloads import decode_entry
from .tables import HISTORIES

_PAGE = 1000
"""Entries in one reply."""
_PAGE_BYTES = 4 * 1024 * 1024
_MAX_GROUPS = 100
_LARGEST = 2**63 - 1
_ALL = 2**31
_PRUNE_INTERVAL = 30.0

_HEADER = re.compile(r"([0-9a-f]{8}-[0-9]{1,13}-[0-9]{1,3}) ([0-9]{1,13}-[0-9]{1,3})\n")
"""What a notification begins with."""


class Limits(NamedTuple):
    """How much is kept of each group."""

    length: int
    """Messages; 0 if there are no histories."""
    max_bytes: int
    age_us: int
    """Microseconds."""


class Memory:
    """The mark of the server's memory, as the sessions of a layer have seen it."""

    def __init__(self) -> None:
        self._mark: str | None = None

    def is_another(self, mark: str) -> bool:
        """Remember the mark; return whether it was another one before."""
        before, self._mark = self._mark, mark
        return before not in (None, mark)


class LiveEntries:
    """Takes the notifications of one group with a history: a `Receiver`."""

    def __init__(self, group: str, sync: HistorySync) -> None:
        self._group = group
        self._sync = sync

    def add(self, payload: str) -> None:
        """Add the entry to what comes live, or have the history read where it is too large for that."""
        match = _HEADER.match(payload)
        if match is None:
            raise DecodeError("another program notifies this channel too")
        if match.end() == len(payload):
            self._sync.notify_published(self._group)
        else:
            position, previous = match.groups()
            message = decode_entry(payload[match.end() :])
            self._sync.add_live(self._group, HistoryEntry(position.encode(), previous.encode(), message))


class HistoryStore:
    """The histories as one session sees them."""

    def __init__(self, connection: Connection, limits: Limits, memory: Memory) -> None:
        """``memory`` outlives the session."""
        self.limits = limits
        self.tables = TableAccess(connection, HISTORIES)
        self._memory = memory
        self.pages: Batcher[tuple[str, bytes], HistoryPage] = Batcher(self._read_pages, max_items=_MAX_GROUPS)
        """Of groups, with positions after which to read. The session runs and closes it."""

    async def _read_pages(self, wanted: Sequence[tuple[str, bytes]]) -> list[HistoryPage]:
        topics = sql.text_array(group.encode() for group, _ in wanted)
        epochs = [reached[: EPOCH_PREFIX - 1].decode() for _, reached in wanted]
        numbers = [str(number_of(reached)) for _, reached in wanted]
        limits = max(1, _PAGE // len(wanted)), _PAGE_BYTES // len(wanted)
        pages = [HistoryPage(b"%b-%b" % (NO_EPOCH, BEGINNING), []) for _ in wanted]
        for place, epoch, last, number, previous, payload in await self.tables.run(
            sql.HISTORY_PAGE, topics, epochs, numbers, *limits
        ):
            if epoch is None:
                continue
            entries = pages[place - 1].entries
            if number is not None:
                entries.append(HistoryEntry(_position(epoch, number), _id(previous), decode_entry(payload)))
            if len(entries) < 2:
                pages[place - 1] = HistoryPage(_position(epoch, last), entries)
        return pages

    async def latest(self, group: str, limit: int | None) -> list[HistoryEntry]:
        """Return the last entries, the oldest first."""
        if limit == 0:
            return []
        rows = await self.tables.run(sql.HISTORY_LATEST, group.encode(), min(limit or _ALL, _ALL))
        return [
            HistoryEntry(_position(epoch, number), b"", decode_entry(payload)) for epoch, number, payload in rows[::-1]
        ]

    async def position(self, group: str) -> str:
        """Return the position of the group's last message, and keep it for those who come back with it."""
        ((epoch, last),) = await self.tables.run(sql.HISTORY_POSITION, group.encode(), *self.limits)
        return _position(epoch, last).decode()

    async def is_memory_lost(self) -> bool:
        """Return whether a crash has taken back commits since the last session of the layer that has asked."""
        ((mark,),) = await self.tables.run(sql.HISTORY_MEMORY)
        return self._memory.is_another(mark)

    async def purge(self, prefix: bytes) -> None:
        await self.tables.run(sql.HISTORY_PURGE, prefix)

    async def maintain(self) -> None:
        """Prune every half a minute, until the session is over."""
        await maintain(_PRUNE_INTERVAL, self.prune, "Old messages of the histories cannot be deleted")

    async def prune(self) -> None:
        """Drop what is too old, and forget groups that nothing was published to for long."""
        await self.tables.run(sql.HISTORY_PRUNE)
        await self.tables.run(sql.HISTORY_FORGET)


def _position(epoch: str, number: int) -> bytes:
    return b"%b-%b" % (epoch.encode(), _id(number))


def _id(number: int) -> bytes:
    return b"%d-%d" % divmod(number, 1000)


def number_of(position: bytes) -> int:
    """Return the number in a position, which may be anything that looks like one, or empty."""
    milliseconds, _, rest = position[EPOCH_PREFIX:].partition(b"-")
    return min(int(milliseconds or 0) * 1000 + int(rest or 0), _LARGEST)
