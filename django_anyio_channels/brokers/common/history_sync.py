"""Keeps what a layer receives of each group complete: what was published while it was not connected comes first."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from ...core.events import Event, Gap
from ...core.exceptions import ChannelLayerError, ListenerClosed
from ...core.stats import RateLimitedLogger
from .entries import HistoryEntry
from .event_stream import EventStream
from .history import HistoryPage
from .merge import HistoryMerger


class HistorySession(Protocol):
    """A session of a layer with a broker that keeps histories."""

    @property
    def events(self) -> EventStream:
        """Where the events of the session go."""

    def abort(self, error: ListenerClosed) -> None:
        """End the session at once; the layer begins another one."""

    async def read_page(self, group: str, reached: bytes) -> HistoryPage:
        """Read what follows the position ``reached``; empty while none is known. Raises `ChannelLayerError`."""

    async def is_memory_lost(self) -> bool:
        """Return whether the broker has lost its memory since the layer's last session. Called once in a session.

        Only groups without an epoch need it: nothing of their own would be missing. A broker that notes every group
        that a node subscribes to, or that never forgets, returns False.
        """


class _SyncedGroup:
    """One group that is subscribed to."""

    def __init__(self, merger: HistoryMerger) -> None:
        self.merger = merger
        self.reading: asyncio.Task[None] | None = None
        self.restarted = False
        """The reply that `reading` waits for may be too old: it has to read once more."""
        self.notified = False
        """The same, but as far as the reply goes it is right."""
        self.seconds: float | None = None
        """How long the gap that is being read is, if the connection was up meanwhile."""


class HistorySync:
    """What one layer is subscribed to, over all its sessions.

    A new session goes on where a session that broke has ended, as soon as the same groups are subscribed to again.
    """

    def __init__(self) -> None:
        self._session: HistorySession
        self._memory_checked: asyncio.Task[None] | None = None
        self._memory_lost = False
        """Whether the server has lost its memory since the groups of the last session were complete."""
        self._groups: dict[str, _SyncedGroup] = {}
        self._patterns: set[str] = set()
        self._broken_groups: dict[str, HistoryMerger] = {}
        """What the sessions before were subscribed to and this one is not yet."""
        self._broken_patterns: set[str] = set()
        self._log = RateLimitedLogger()

    def start(self, session: HistorySession) -> None:
        """Begin a session."""
        self._session = session
        self._memory_checked = None
        self._broken_groups.update((group, synced.merger) for group, synced in self._groups.items())
        self._broken_patterns |= self._patterns
        self._groups.clear()
        self._patterns.clear()

    def subscriptions_restored(self) -> None:
        """Forget what has not been subscribed to again."""
        self._broken_groups.clear()
        self._broken_patterns.clear()
        self._memory_lost = False

    def reset(self) -> None:
        """Have the next session begin anew."""
        self._groups.clear()
        self._patterns.clear()
        self.subscriptions_restored()

    def add(self, group: str) -> None:
        """Have what is received of a group wait for `catch_up`; call it before subscribing."""
        if group not in self._groups:
            merger = self._broken_groups.pop(group, None) or HistoryMerger()
            merger.restart()
            self._groups[group] = _SyncedGroup(merger)

    async def catch_up(self, group: str) -> None:
        """Emit what was missed of a group that is subscribed to now. Any number of tasks may call it at once."""
        synced = self._groups.get(group)
        if synced is not None and synced.merger.catching_up:
            await asyncio.shield(self._read(group, synced))

    def discard(self, group: str) -> None:
        """The group is unsubscribed from."""
        self._groups.pop(group, None)

    def add_pattern(self, pattern: str) -> None:
        """A pattern was subscribed to. What it may have missed cannot be known."""
        self._patterns.add(pattern)
        if pattern in self._broken_patterns:
            self._broken_patterns.discard(pattern)
            self._session.events.add(Gap(pattern, b"", pattern))

    def discard_pattern(self, pattern: str) -> None:
        """The pattern is unsubscribed from."""
        self._patterns.discard(pattern)

    def add_live(self, group: str, entry: HistoryEntry, pattern: str | None = None) -> None:
        """Take an entry that came live, to a group or to a pattern that matches it."""
        synced = self._groups.get(group) if pattern is None else None
        if synced is None or synced.merger.add_live(entry):
            self._session.events.add(Event(group, entry.message, pattern, None, entry.position.decode()))
        elif synced.merger.catching_up:
            self._backfill(group, synced)

    def add_without_history(self, event: Event[bytes]) -> None:
        """Take an event of a group, or of a pattern, that is subscribed to without a history."""
        self._session.events.add(event)

    def notify_published(self, group: str) -> None:
        """Read what was published and does not come live, such as a message too large for that."""
        synced = self._groups.get(group)
        if synced is not None:
            synced.merger.catch_up()
            synced.notified = True
            self._backfill(group, synced)

    def has(self, group: str) -> bool:
        """Return whether a group is subscribed to with its history."""
        return group in self._groups

    def restart(self, group: str, seconds: float) -> bool:
        """Look for what a connection that was up has missed over so many seconds. Returns whether the group is here."""
        synced = self._groups.get(group)
        if synced is not None:
            synced.merger.restart()
            synced.restarted = True
            synced.seconds = seconds
            self._backfill(group, synced)
        return synced is not None

    def _backfill(self, group: str, synced: _SyncedGroup) -> None:
        """Read the history while no task waits for it."""
        if synced.reading is None:
            self._read(group, synced).add_done_callback(self._backfilled)

    def _read(self, group: str, synced: _SyncedGroup) -> asyncio.Task[None]:
        if synced.reading is None:
            synced.reading = asyncio.get_running_loop().create_task(self._read_on(self._session, group, synced))
            synced.reading.add_done_callback(_retrieve_error)
        return synced.reading

    async def _read_on(self, session: HistorySession, group: str, synced: _SyncedGroup) -> None:
        try:
            await self._check_memory()
            while synced.merger.catching_up:
                synced.restarted = synced.notified = False
                last, entries = await session.read_page(group, synced.merger.reached)
                if self._groups.get(group) is not synced or self._session is not session:
                    return
                if synced.restarted:
                    continue
                missed, found = synced.merger.add_history(last, entries, memory_lost=self._memory_lost)
                self._log_forged(group, synced.merger)
                if missed:
                    session.events.add(Gap(group, b"", seconds=synced.seconds))
                for entry in found:
                    session.events.add(Event(group, entry.message, None, None, entry.position.decode()))
                if synced.notified:
                    synced.merger.catch_up()
        finally:
            synced.reading = synced.seconds = None

    def _log_forged(self, group: str, merger: HistoryMerger) -> None:
        if merger.forged:
            text = "The history of %s lacks messages that came live (%d): another program publishes there"
            self._log.write(logging.ERROR, text, group, merger.forged)
            merger.forged = 0

    async def _check_memory(self) -> None:
        """Find out once in a session whether the server has lost its memory."""

        async def check(session: HistorySession) -> None:
            if await session.is_memory_lost():
                self._memory_lost = True

        if self._memory_checked is None:
            self._memory_checked = asyncio.get_running_loop().create_task(check(self._session))
            self._memory_checked.add_done_callback(_retrieve_error)
        await asyncio.shield(self._memory_checked)

    def _backfilled(self, reading: asyncio.Task[None]) -> None:
        """End the session if a hole could not be read; the next one has to."""
        error = None if reading.cancelled() else reading.exception()
        if isinstance(error, ChannelLayerError) and not isinstance(error, ListenerClosed):
            self._session.abort(ListenerClosed(str(error)))


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """No task may have waited for it."""
    _ = task.cancelled() or task.exception()
