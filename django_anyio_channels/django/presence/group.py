"""One group at one node: its members here and everywhere, and the channels here that are notified of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Protocol

from ...core.exceptions import DecodeError, PayloadTooLarge
from ...hub.channel import Channel
from ...hub.subscriber import Timestamped
from . import timing
from .members import LocalMembers
from .records import Gone, Joining, Update, decode_event
from .view import Difference, GroupView

CHANGED = "presence.changed"
"""The type of the message to the channels that watch; see `PresenceMixin.presence_changed`."""

_ECHO_SECONDS = 5.0
_MOST_HELD = 1000
"""Events that wait while records are read. With more, the records are read once more."""


class GroupObserver(Protocol):
    """What a group reports to."""

    def work_added(self, group: PresenceGroup) -> None:
        """Called when `PresenceGroup.has_work`, or when the group may be unused."""

    def deliver(self, channel: str, arrived: float, payload: bytes) -> None:
        """Called with each message to a channel that watches."""


class PresenceGroup:
    """The sink of the events of one group. What needs the broker is left to `NodePresence`, see `has_work`."""

    def __init__(self, node: str, group: str, topic: str, grace: float, channel: Channel, observer: GroupObserver):
        self.group = group
        self.topic = topic
        self.local = LocalMembers(node)
        self.view = GroupView()
        self.is_subscribed = False
        self.is_stale = True
        """Whether the records are to be read, because events were missed."""
        self.has_been_read = False
        """Whether the view has ever been complete."""
        self.is_lost = False
        """Whether the records of this node are to be written again."""
        self.outages = channel.outages
        """How many there were when this group was in order."""
        self.written = asyncio.get_running_loop().time()
        """When all of them were written; a time of the event loop."""
        self.worker: asyncio.Task[None] | None = None
        """What does the work, and then waits for a moment whether there is more."""
        self.is_settled = asyncio.Event()
        """Set when there is no work, by the worker."""
        self.is_settled.set()
        self._is_awaited = asyncio.Event()
        self._node = node
        self._watchers: dict[str, None] = {}
        self._held: list[Update | Gone] | None = []
        """Events that wait for the records to be read; None if they need not."""
        self._own_number = 0
        """Of the last change of this node that came back."""
        self._echoed = asyncio.Event()
        self._grace = grace
        self._channel = channel
        self._observer = observer
        self._loop = asyncio.get_running_loop()

    @property
    def is_unused(self) -> bool:
        return not self._watchers and not len(self.local) and not self.local.has_changed

    @property
    def has_work(self) -> bool:
        """Whether something is to be read from the broker or written there."""
        if self.is_unused:
            return False
        return not self.is_subscribed or self.is_stale or self.is_lost or self.local.has_changed

    # ---- channels of this node ------------------------------------------------------------------------------------

    def join(self, channel: str, joining: Joining, *, watches: bool) -> None:
        """Have a channel be one of a member, watch the members, or both."""
        if watches:
            self._watchers[channel] = None
        member = joining.member
        if member:
            since = self.view.since(member) if member in self.view.members else time()
            absence = self.local.join(channel, member, joining.meta, since)
            if absence is not None:
                self._end_later(*absence)
        if self.worker is None:
            self._observer.work_added(self)

    def discard(self, channel: str) -> None:
        """Undo `join`. A member's last channel leaves it for the grace period."""
        self._watchers.pop(channel, None)
        absence = self.local.leave(channel)
        if absence is not None:
            self._end_later(*absence)
        self._observer.work_added(self)

    async def pause(self, seconds: float) -> None:
        """Wait for more work that may come, but not while a caller waits for what has come."""
        self._is_awaited.clear()
        timer = self._loop.call_later(seconds, self._is_awaited.set)
        try:
            await self._is_awaited.wait()
        finally:
            timer.cancel()

    async def wait_settled(self) -> None:
        """Wait until the worker has done what there is."""
        self.is_settled.clear()
        self._is_awaited.set()
        await self.is_settled.wait()

    def _end_later(self, member: str, absence: int) -> None:
        self._loop.call_later(self._grace, self._end, member, absence)

    def _end(self, member: str, absence: int) -> None:
        self.local.end(member, absence)
        self._observer.work_added(self)

    # ---- all nodes ------------------------------------------------------------------------------------------------

    def put(self, entry: Timestamped) -> None:
        """Take an event."""
        _, event = entry
        try:
            change = decode_event(event.message)
        except DecodeError as error:
            self._channel.stats.count_undecodable(event.group, error)
            return
        if isinstance(change, Update) and change.node == self._node:
            self._own_number = max(change.number, self._own_number)
            self._echoed.set()
        if self._held is not None:
            self._hold(change)
        else:
            self._take_in(change)

    def close(self) -> None:
        """No task waits here."""

    def mark_stale(self) -> None:
        """Have the records read: events may have been missed."""
        self.is_stale = True
        if self._held is None:
            self._held = []
        self._observer.work_added(self)

    async def synchronize(self, read: Callable[[], Any]) -> None:
        """Take over what ``read`` returns, see `GroupView.load`, and then what has come meanwhile."""
        self.is_stale = False
        try:
            records = await read()
        except BaseException:
            self.is_stale = True
            raise
        difference = self.view.load(records)
        if self.has_been_read:  # at first nothing changes: who watches asks who is there
            self._tell(difference)
        while not self.is_stale and self._held:
            self._take_in(self._held.pop(0), forced=True)
        if not self.is_stale:
            self._held = None
            self.has_been_read = True
        if self.view.has_absent:
            self._loop.call_later(timing.LIFETIME, self.mark_stale)

    async def echo(self, number: int) -> None:
        """Wait until this node gets its own change: then all nodes do. If it does not come, events are missed."""
        try:
            async with asyncio.timeout(_ECHO_SECONDS):
                while self._own_number < number:
                    self._echoed.clear()
                    await self._echoed.wait()
        except TimeoutError:
            self.mark_stale()

    def _hold(self, change: Update | Gone) -> None:
        assert self._held is not None
        self._held.append(change)
        if len(self._held) > _MOST_HELD:
            self._held.clear()
            self.is_stale = True

    def _take_in(self, change: Update | Gone, *, forced: bool = False) -> None:
        try:
            self._apply(change, forced)
        except DecodeError as error:
            self._channel.stats.count_undecodable(self.topic, error)

    def _apply(self, change: Update | Gone, forced: bool) -> None:
        if isinstance(change, Gone):
            if self._node in change.nodes and len(self.local):
                self.local.mark_all()
                self._observer.work_added(self)
            self._tell(self.view.remove_nodes(change.nodes))
            return
        difference = self.view.update(change, forced=forced)
        if difference is None:
            self.mark_stale()
            self._hold(change)
        else:
            self._tell(difference)

    # ---- watchers -------------------------------------------------------------------------------------------------

    def _tell(self, difference: Difference) -> None:
        if difference and self._watchers:
            now = monotonic()
            for payload in self._messages(difference, metas=True):
                for channel in list(self._watchers):
                    self._observer.deliver(channel, now, payload)

    def _messages(self, difference: Difference, *, metas: bool) -> list[bytes]:
        """Encode a message about it, or several if it would be too large."""
        described = {
            what: {member: self._describe(member, metas) for member in getattr(difference, what)}
            for what in ("joined", "updated")
        }
        try:
            message = {"type": CHANGED, "group": self.group, **described, "left": difference.left}
            return [self._channel.encode(message)]
        except PayloadTooLarge:
            halves = difference.halves()
            if halves is None:
                return self._messages(difference, metas=False)
            return [payload for half in halves for payload in self._messages(half, metas=metas)]

    def _describe(self, member: str, metas: bool) -> dict[str, Any]:
        entry = self.view.find(member)
        assert entry is not None
        return {"metas": decode_metas(self._channel, entry.metas) if metas else [], "since": entry.since}


def decode_metas(channel: Channel, metas: list[bytes]) -> list[Any]:
    """Decode metas. One that no node of this project has written is counted, logged and left out."""
    decode = channel.serializer.decode
    try:
        return [decode(meta) for meta in metas]
    except DecodeError:
        pass
    found = []
    for meta in metas:
        try:
            found.append(decode(meta))
        except DecodeError as error:
            channel.stats.count_undecodable("a member's meta", error)
    return found
