"""Keeps what a layer receives of each group complete: what was published while it was not connected comes first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ....core.events import Event, Gap
from ....core.exceptions import ChannelLayerError, ListenerClosed
from ....core.stats import RateLimitedLogger
from ..session import Session
from .entries import HistoryEntry, match_entry
from .history import History
from .memory import ServerMemory
from .merge import StreamMerger


class _SyncedGroup:
    """One group that is subscribed to."""

    def __init__(self, merger: StreamMerger) -> None:
        self.merger = merger
        self.reading: asyncio.Task[None] | None = None
        self.restarted = False
        """The reply that `reading` waits for may be too old: it has to read once more."""
        self.seconds: float | None = None
        """How long the gap that is being read is, if the connection was up meanwhile."""


class HistorySync:
    """What one layer is subscribed to, over all its sessions.

    A new session goes on where a session that broke has ended, as soon as the same groups are subscribed to again.
    """

    def __init__(self, history: History, on_end: Callable[[ListenerClosed], None]) -> None:
        """A `SubscriptionObserver`, together with ``on_end``."""
        self.on_end = on_end
        self._history = history
        self._session: Session
        self._memory = ServerMemory()
        self._memory_checked: asyncio.Task[None] | None = None
        self._memory_lost = False
        """Whether the server has lost its memory since the groups of the last session were complete."""
        self._groups: dict[str, _SyncedGroup] = {}
        self._patterns: set[str] = set()
        self._broken_groups: dict[str, StreamMerger] = {}
        """What the sessions before were subscribed to and this one is not yet."""
        self._broken_patterns: set[str] = set()
        self._log = RateLimitedLogger()

    def start(self, session: Session) -> None:
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
            merger = self._broken_groups.pop(group, None) or StreamMerger()
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
            self._session.subscriptions.events.add(Gap(pattern, b"", pattern))

    def discard_pattern(self, pattern: str) -> None:
        """The pattern is unsubscribed from."""
        self._patterns.discard(pattern)

    def on_message(self, channel: str, pattern: str | None, message: bytes) -> None:
        match = match_entry(message)
        entry = HistoryEntry(*match.groups()) if match else None
        synced = self._groups.get(channel) if pattern is None else None
        if entry is None:
            if synced is None:
                self._session.subscriptions.events.add(Event(channel, message, pattern))
            else:
                text = "Ignored a message on %s that was not published by this package: %r"
                self._log.write(logging.ERROR, text, channel, message[:80])
        elif synced is None or synced.merger.add_live(entry):
            event = Event(channel, entry.message, pattern, None, entry.position.decode())
            self._session.subscriptions.events.add(event)
        elif synced.merger.catching_up:
            self._backfill(channel, synced)

    def on_gap(self, channel: str, seconds: float) -> bool:
        """As `SubscriptionObserver.on_gap`: what was published before the slot was followed is in the history."""
        synced = self._groups.get(channel)
        if synced is not None:
            synced.merger.restart()
            synced.restarted = True
            synced.seconds = seconds
            self._backfill(channel, synced)
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

    async def _read_on(self, session: Session, group: str, synced: _SyncedGroup) -> None:
        try:
            await self._check_memory()
            while synced.merger.catching_up:
                synced.restarted = False
                last, entries = await self._history.page(session, group.encode(), synced.merger.reached)
                if self._groups.get(group) is not synced or self._session is not session:
                    return
                if synced.restarted:
                    continue
                missed, found = synced.merger.add_history(last, entries, memory_lost=self._memory_lost)
                self._log_forged(group, synced.merger)
                if missed:
                    session.subscriptions.events.add(Gap(group, b"", seconds=synced.seconds))
                for entry in found:
                    event = Event(group, entry.message, None, None, entry.position.decode())
                    session.subscriptions.events.add(event)
        finally:
            synced.reading = synced.seconds = None

    def _log_forged(self, group: str, merger: StreamMerger) -> None:
        if merger.forged:
            text = "The history of %s lacks live messages (%d): another program publishes there"
            self._log.write(logging.ERROR, text, group, merger.forged)
            merger.forged = 0

    async def _check_memory(self) -> None:
        """Find out once in a session whether the server has lost its memory."""

        async def check(session: Session) -> None:
            if await self._memory.is_lost(session):
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
