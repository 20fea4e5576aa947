"""The records of presence in a table: concurrent calls share a statement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...core.capabilities import PresenceRecord
from ..common.batching import Batcher
from . import statements as sql
from .access import TableAccess, maintain
from .connection import Connection
from .tables import PRESENCE

_MAX_BATCH_BYTES = 1024 * 1024
_SWEEP_INTERVAL = 30.0


class Presence:
    """The records as one session sees them."""

    def __init__(self, connection: Connection) -> None:
        self._tables = TableAccess(connection, PRESENCE)
        self.puts: Batcher[tuple[Sequence[PresenceRecord], float], None]
        self.puts = Batcher(self._put, max_bytes=_MAX_BATCH_BYTES)
        """The session runs and closes it."""

    async def put(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        """Put and remove records."""
        await self.puts.call((records, ttl), key=ttl, size=sum(len(record.content) for record in records))

    async def _put(self, calls: Sequence[tuple[Sequence[PresenceRecord], float]]) -> list[None]:
        last = {(name, key): content for records, _ in calls for name, key, content in records}
        kept = {place: content for place, content in last.items() if content}
        removed = last.keys() - kept.keys()
        if kept:
            await self._tables.run(sql.PRESENCE_PUT, *_columns(kept), sql.text_array(kept.values()), calls[0][1])
        if removed:
            await self._tables.run(sql.PRESENCE_REMOVE, *_columns(removed))
        return [None] * len(calls)

    async def read(self, name: bytes) -> dict[str, bytes]:
        """Return the records of a name."""
        return dict(await self._tables.run(sql.PRESENCE_READ, name))

    async def purge(self, prefix: bytes) -> None:
        """Remove the records of names that begin with a prefix, if there are any."""
        if await self._tables.exist():
            await self._tables.run(sql.PRESENCE_PURGE, prefix)

    async def maintain(self) -> None:
        """Sweep every half a minute, until the session is over."""
        await maintain(_SWEEP_INTERVAL, self.sweep, "Old records of presence cannot be deleted")

    async def sweep(self) -> None:
        """Delete records whose time is over, if presence is used here."""
        if self._tables.found is not None:
            await self._tables.run(sql.PRESENCE_SWEEP)


def _columns(places: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    names, keys = zip(*places, strict=True)
    return sql.text_array(name.encode() for name in names), list(keys)
