"""Each group's history on the server, a Redis stream (``XADD``, ``XRANGE``): write and read it by Lua scripts."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import hiredis

from ...common.entries import HistoryEntry, match_entry
from ...common.history import HistoryPage
from ..keys import bindings_key, companion_key
from ..scripts import Script, is_noscript
from ..session import Session
from .memory import ServerMemory

_PAGE = 250
_ALL = 2**31
_CLOCK_DIGITS = 13
"""Digits of the milliseconds on a server's clock, until the year 2286."""
_POSITION_TTL_MS = 24 * 3600 * 1000
"""For which a group's position is known longer than its last message."""

_PUBLISH = Script("streams_load_position", "streams_trim_bytes", "streams_publish")
_READ = Script("streams_load_position", "drop_foreign_type", "streams_read")
_POSITION = Script("streams_load_position", "streams_touch_position", "streams_position")
_LATEST = Script("streams_load_position", "drop_foreign_type", "streams_latest")


@lru_cache(maxsize=1024)
def history_keys(group: bytes) -> list[bytes]:
    """Return the keys of a group that each of its scripts begins with, see streams_load_position.lua."""
    return [companion_key(group, "position"), companion_key(group, "history")]


class Published(NamedTuple):
    """What the server replies of one message."""

    receivers: int
    """Nodes."""
    position: bytes
    bindings: list[bytes] | hiredis.ReplyError
    """The queues that are bound to the group, as ``HGETALL`` returns them."""


class History:
    """How much is kept of each group, in messages, seconds and bytes, and the scripts that keep and read it."""

    def __init__(self, length: int, age: float, max_bytes: int) -> None:
        milliseconds = round(age * 1000)
        power = len(str(max(1, milliseconds // 8))) - 1
        allowance: int = 10**power
        self.position_ttl = milliseconds + allowance + _POSITION_TTL_MS
        """Milliseconds for which a group's position is kept."""
        self.retention = (2 * milliseconds + allowance) / 1000
        """Seconds. The last entry keeps older ones with it."""
        self._limits = self.position_ttl, length, milliseconds, milliseconds + allowance, _CLOCK_DIGITS - power
        for_small = max_bytes // 4
        self._byte_limits = for_small // length, max_bytes - for_small
        """From how many bytes on a message is large, so that all small ones have room; what large ones may take."""

    async def publish(
        self, session: Session, channel_prefix: bytes, messages: list[tuple[bytes, bytes]]
    ) -> list[Published | Exception]:
        """Keep and publish messages of one group, given with its name, each at once, in their order."""
        group = messages[0][0]
        args: list[bytes | str | int] = [
            *self._limits,
            session.publish_command,
            channel_prefix + group,
            *self._byte_limits,
        ]
        large = False
        for _, message in messages:
            args.append(message)
            large = large or len(message) >= self._byte_limits[0]
        # No key more than needed: while a cluster moves a slot, a key that is not there has the call refused.
        keys = history_keys(group)
        if large:
            keys = [*keys, bindings_key(group), companion_key(group, "large")]
        elif session.peers.may_be_bound:
            keys = [*keys, bindings_key(group)]
        executor = session.executor(group)
        reply = await executor.execute(_PUBLISH.evalsha(keys, *args))
        if isinstance(reply, hiredis.ReplyError) and is_noscript(reply):
            reply = await executor.execute(_PUBLISH.eval(keys, *args))
        if isinstance(reply, hiredis.ReplyError):
            raise session.translate_error(reply)
        bindings, *outcomes = reply
        results: list[Published | Exception] = []
        for each in outcomes:
            refused = isinstance(each, hiredis.ReplyError)
            results.append(session.translate_error(each) if refused else Published(each[0], each[1], bindings))
        return results

    async def page(self, session: Session, group: bytes, reached: bytes) -> HistoryPage:
        """Read a page of what follows ``reached``."""
        reply = await _READ.run(session.executor(group), history_keys(group), self.position_ttl, reached, _PAGE)
        last, *entries = session.raise_for_error(reply)
        return HistoryPage(last, _read_entries(entries))

    async def position(self, session: Session, group: bytes) -> bytes:
        """Return the position of the group's last message, and keep it for those who come back with it."""
        reply = await _POSITION.run(session.executor(group), history_keys(group), self.position_ttl)
        position: bytes = session.raise_for_error(reply)
        return position

    async def latest(self, session: Session, group: bytes, limit: int | None) -> list[HistoryEntry]:
        """Return the last entries, the oldest first."""
        if limit == 0:
            return []
        reply = await _LATEST.run(session.executor(group), history_keys(group), min(limit or _ALL, _ALL))
        return _read_entries(session.raise_for_error(reply))


class SessionHistory:
    """One session's view of the histories on its server; a `HistorySession`."""

    def __init__(self, history: History, session: Session, memory: ServerMemory) -> None:
        self._history = history
        self._session = session
        self._memory = memory
        self.events = session.events
        self.abort = session.abort

    async def read_page(self, group: str, reached: bytes) -> HistoryPage:
        return await self._history.page(self._session, group.encode(), reached)

    async def is_memory_lost(self) -> bool:
        return await self._memory.is_lost(self._session)


def _read_entries(entries: list[bytes]) -> list[HistoryEntry]:
    return [HistoryEntry(*match.groups()) for data in entries if (match := match_entry(data))]
