"""Presence at one node: what it tells the others of its members, and what it learns of theirs.

* Members are at their node, in the memory of it. For each group it keeps records at the broker (`members`), and
  publishes each change to the group's topic of presence, which every node with a member of the group subscribes to.
* A change is written first and then published, in the background: `group_add` waits for neither. What comes meanwhile
  goes along with the next change.
* All nodes apply the changes in the broker's order (`view`). A node that joins, or that missed one, reads the records.
* A node renews one record of its own, however many groups and members it has. Where it is missing, the first of the
  other nodes of a group publishes that it has gone. A node that ends lets its record last for the grace period.
* After an outage a node writes its records again, reads those of the others, and says which change was its last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import anyio

from ...core.capabilities import PresenceRecord
from ...core.exceptions import ChannelLayerError
from ...core.stats import RateLimitedLogger
from ...hub.channel import Channel
from ..settings import Settings
from . import timing
from .group import PresenceGroup
from .members import Change
from .reading import RecordReader
from .records import RECORD_SECONDS, Entry, Gone, Joining, encode_event, node_of_key
from .view import GroupView

T = TypeVar("T")

logger = logging.getLogger("django_anyio_channels")

_GIVE_UP = 1.5
"""Intervals for which a node is missing before it is given up: it is not seen twice."""
_GIVE_UP_ALONE = 4.0
"""The same for a node that is not the first one: the first one may have done it while this one was away."""
_PAUSE = 0.1
"""Seconds between two turns of one group: what comes meanwhile shares the next one."""
_CLOSE_SECONDS = 1.0
_REFRESH_SECONDS = RECORD_SECONDS / 3


class Channels(Protocol):
    """What this needs of the channels of its node; `LocalChannels`."""

    def deliver(self, name: str, arrived: float, payload: bytes) -> None:
        """Put a message into the mailbox of a channel."""

    async def group_add(self, topic: str, name: str) -> None:
        """Add a channel to the group of ``topic``, unless it has ended."""

    def sink(self, topic: str, name: str) -> object | None:
        """Return something if it is in that group, else None."""

    def watches(self, name: str) -> bool:
        """Return whether its consumer has a method for changes of members."""


class NodePresence:
    """The groups with presence of one node, by their topics."""

    def __init__(self, node: str, channel: Channel, settings: Settings, channels: Channels) -> None:
        self.groups: dict[str, PresenceGroup] = {}
        self.deliver = channels.deliver
        """See `GroupObserver`."""
        self._channels = channels
        self._node = node
        self._channel = channel
        self._store = channel.presence
        self._reader = RecordReader(channel, settings.names)
        self._names = settings.names
        self._grace = settings.presence_grace
        self._lifetime = max(timing.LIFETIME, settings.presence_grace)
        self._timeout = settings.publish_timeout
        self._number = 0
        self._outages = 0
        self._renewing = asyncio.Lock()
        self._is_renewed = False
        """Whether `_keep` renews; before its first turn who writes records does."""
        self._seen: dict[str, float] = {}
        """When a node that has members was seen last; times of the event loop."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._maintaining: asyncio.Task[None] | None = None
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._log = RateLimitedLogger()

    # ---- channels of this node ------------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str, joining: Joining) -> None:
        """Add a channel of this node to a group, as one of a member or to watch. Raises `NotSupported`."""
        topic = self._names.group(group)
        if topic not in self.groups:
            self._store.require_supported()
        await self._channels.group_add(topic, channel)
        if self._channels.sink(topic, channel) is not None:  # and not discarded meanwhile
            found = self.groups.get(topic) or self._new_group(group)
            found.join(channel, joining, watches=joining.watch or self._channels.watches(channel))

    def discard(self, topic: str, channel: str) -> None:
        """Undo `group_add`."""
        if topic in self.groups:
            self.groups[topic].discard(channel)

    def _new_group(self, group: str) -> PresenceGroup:
        new = PresenceGroup(self._node, group, self._names.presence(group), self._grace, self._channel, self)
        self.groups[self._names.group(group)] = new
        if self._maintaining is None:
            self._outages = self._channel.outages
            self._maintaining = self._start(self._keep())
        return new

    def mark_missed(self, topic: str | None) -> None:
        """Read the members of a group whose topic is this one again, because events were missed; None for all."""
        for group in self.groups.values():
            if topic is None or group.topic == topic:
                group.mark_stale()

    async def members(self, group: str) -> dict[str, Entry]:
        """Return the members of a group, with all that was done at this node before.

        A node that has members or watches answers by what its channels were sent, so that the next message fits.
        """
        view = await self._settled(group)
        if view is not None:
            return view.merged()
        return await self._reader.members(group)

    async def count(self, group: str) -> tuple[int, int]:
        """Return how many channels and members a group has."""
        view = await self._settled(group)
        if view is not None:
            return sum(entry.channels for entry in view.merged().values()), len(view.members)
        return await self._reader.count(group)

    async def _settled(self, group: str) -> GroupView | None:
        """Wait until all that was done at this node is seen by all, but not for an outage to end."""
        found = self.groups.get(self._names.group(group))
        if found is None:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                while found.has_work or not found.is_settled.is_set():
                    await found.wait_settled()
        return found.view if found.has_been_read else None

    # ---- groups ---------------------------------------------------------------------------------------------------

    def work_added(self, group: PresenceGroup) -> None:
        """See `GroupObserver`."""
        if group.worker is None and not self._is_closed:
            group.worker = self._start(self._work(group))

    async def _work(self, group: PresenceGroup) -> None:
        try:
            while group.has_work:
                group.is_settled.clear()
                try:
                    await self._settle(group)
                except ChannelLayerError as error:
                    self._log.write(logging.WARNING, "The members of %s cannot be published: %s", group.group, error)
                    await asyncio.sleep(timing.INTERVAL)
                if not group.has_work:
                    group.is_settled.set()
                    await group.pause(_PAUSE)
        finally:
            group.worker = None
            group.is_settled.set()
        topic = self._names.group(group.group)
        if group.is_unused and self.groups.get(topic) is group:
            del self.groups[topic]
            self._channel.remove_sink(group.topic, group)

    async def _settle(self, group: PresenceGroup) -> None:
        """Do one turn of what a group has to read and write."""
        async with self._renewing:
            # Once only: from its absence `_keep` concludes that the broker has lost all records.
            if not self._is_renewed:
                await self._renew(self._lifetime)
        if not group.is_subscribed:
            await self._channel.add_sink(group.topic, group)
            group.is_subscribed = True
        if group.outages != self._channel.outages:
            group.outages = self._channel.outages
            group.is_lost = True
            group.mark_stale()
        if group.is_lost:
            group.is_lost = False
            try:
                await self._write(group, group.local.all())
            except BaseException:
                group.is_lost = True
                raise
            group.written = self._loop.time()
        if group.is_stale:
            await group.synchronize(lambda: self._reader.records(group.group))
        if group.local.has_changed:
            self._number += 1
            change = group.local.take(self._number)
            try:
                await self._write(group, change)
            except BaseException:
                group.local.restore(change)
                raise
            await group.echo(change.update.number)

    async def _write(self, group: PresenceGroup, change: Change) -> None:
        names = self._names.presence(group.group), self._names.counts(group.group)
        records = [PresenceRecord(names[0], self._node, change.head)]
        records += [
            PresenceRecord(name, f"{self._node}.{part}", content)
            for part, contents in change.parts.items()
            for name, content in zip(names, contents, strict=True)
        ]
        await self._store.put(records, RECORD_SECONDS)
        await self._channel.publish_payload(group.topic, encode_event(change.update))

    async def _renew(self, seconds: float) -> None:
        await self._store.put([PresenceRecord(self._names.present_nodes, self._node, b"present")], seconds)
        self._is_renewed = True

    # ---- the other nodes ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew this node's presence and give up others', every `INTERVAL` seconds while there are groups."""
        try:
            while self.groups:
                await asyncio.sleep(timing.INTERVAL)
                try:
                    await self._renew_and_look()
                except ChannelLayerError as error:
                    self._log.write(logging.WARNING, "The presence of this node cannot be renewed: %s", error)
        finally:
            self._maintaining = None
            self._is_renewed = False

    async def _renew_and_look(self) -> None:
        now = self._loop.time()
        outages, self._outages = self._outages, self._channel.outages
        present = await self._reader.present_nodes()
        had_outage = outages != self._channel.outages
        async with self._renewing:
            await self._renew(self._lifetime)
        known = {node for group in self.groups.values() for node in group.view.nodes} - {self._node}
        # After an outage all have to come back first.
        last = now + self._lifetime if had_outage else now
        self._seen = {
            node: max(last if had_outage or node in present else 0.0, self._seen.get(node, now)) for node in known
        }
        for group in list(self.groups.values()):
            if had_outage or self._node not in present:
                group.is_lost = True
                group.mark_stale()
            elif now - group.written > _REFRESH_SECONDS:
                group.is_lost = True
                self.work_added(group)
            await self._give_up(group, present, now)

    async def _give_up(self, group: PresenceGroup, present: set[str], now: float) -> None:
        """Publish which nodes have gone, if this node is the first one of the others."""
        nodes = group.view.nodes
        is_first = all(self._node <= node for node in nodes if node in present)
        patience = timing.INTERVAL * (_GIVE_UP if is_first else _GIVE_UP_ALONE)
        gone = {node: nodes[node] for node in nodes if now - self._seen.get(node, now) >= patience}
        if gone:
            names = self._names.presence(group.group), self._names.counts(group.group)
            keys = [key for key in await self._store.read(names[0]) if node_of_key(key) in gone]
            await self._store.put([PresenceRecord(name, key, b"") for key in keys for name in names], RECORD_SECONDS)
            await self._channel.publish_payload(group.topic, encode_event(Gone(gone)))

    # ---- tasks ----------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Unexpected error in presence", exc_info=task.exception())

    async def close(self) -> None:
        """Stop. The members of this node are present for the grace period."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self.groups:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(ChannelLayerError):
                await self._renew(max(self._grace, 1.0))
