"""The channel names that live in this event loop: their mailboxes, groups and owners."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from ..core.events import Event
from ..core.notifier import Notifier, waiter_type
from ..hub.replay import ReplaySink
from ..hub.subscriber import Subscriber

_LONGEST_SWEEP = 60.0
_SHORTEST_SWEEP = 0.05

_NOBODYS = "0"
"""The label of names that were made for no consumer."""

_GIVEN = re.compile(r"!([0-9a-f]+)\.[0-9a-f]{24}$")
"""How the names that `Names.new` gave end: with a label, and what nobody can guess."""


class Groups(Protocol):
    """Where mailboxes listen to groups."""

    async def add_sink(self, group: str, sink: Subscriber | ReplaySink) -> None: ...

    def has_sink(self, group: str, sink: Subscriber | ReplaySink) -> bool: ...

    def remove_sink(self, group: str, sink: Subscriber | ReplaySink) -> None: ...


class Member:
    """One living name."""

    __slots__ = ("groups", "mailbox", "name", "resumed")

    def __init__(self, name: str, mailbox: Subscriber) -> None:
        self.name = name
        self.mailbox = mailbox
        self.groups: tuple[str, ...] = ()
        self.resumed: dict[str, ReplaySink] | None = None
        """The groups that it came back to, and what it listens to them through."""

    @property
    def unused(self) -> bool:
        return not self.groups and not len(self.mailbox) and not self.mailbox.has_waiters

    def sink(self, group: str) -> Subscriber | ReplaySink:
        """What listens to a group."""
        return self.mailbox if self.resumed is None else self.resumed.get(group, self.mailbox)


class Owner:
    """A consumer that has names. It is gone when its task has ended, or when nobody holds it any more."""

    def __init__(self, consumer: object, task: asyncio.Task[Any] | None, ended: Callable[[], object]) -> None:
        self.members: set[Member] = set()
        loop = asyncio.get_running_loop()

        def tell(gone: object) -> None:
            with suppress(RuntimeError):  # the loop is closed, and with it everything is gone
                loop.call_soon_threadsafe(ended)

        self._tell = tell
        self._task = task
        self._reference = weakref.ref(consumer, tell)
        if task is not None:
            task.add_done_callback(tell)

    def forget(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.remove_done_callback(self._tell)


class PrefixReader:
    """Readers of all names with one prefix: they get what nobody waits for under its own name."""

    def __init__(self) -> None:
        self.notifier = Notifier(waiter_type())
        self.unread: dict[Subscriber, None] = {}

    def add(self, mailbox: Subscriber) -> None:
        self.unread[mailbox] = None
        self.notifier.notify()

    async def receive(self) -> Event[Any]:
        while True:
            while self.unread:
                mailbox = next(iter(self.unread))
                event = None if mailbox.has_waiters else mailbox.receive_nowait()
                if event is not None:
                    return event
                del self.unread[mailbox]
            await self.notifier.wait()


class Names:
    """A name lives while it has messages, a waiting reader or a group, and no longer than that.

    The names of a consumer go with it, unless somebody else waits on them: Channels never says that it has ended. What
    is on its way to them then is dropped, and they join no group any more.
    Unread messages go after ``expiry`` seconds, memberships ``group_expiry`` seconds after the last `join`.
    """

    def __init__(
        self,
        node: str,
        groups: Groups,
        make_mailbox: Callable[[str], Subscriber],
        placed: Callable[[Event[bytes], Any], Any],
        *,
        expiry: float,
        group_expiry: float,
    ) -> None:
        self._node = node
        self._groups = groups
        self._make_mailbox = make_mailbox
        self._placed = placed
        self._expiry = expiry
        self._group_expiry = group_expiry
        self._members: dict[str, Member] = {}
        self._prefix_readers: dict[str, PrefixReader] = {}
        self._owners: dict[str, Owner] = {}
        self._owners_ever = 0
        self._free = {_NOBODYS}
        """The labels of names that live without a consumer."""
        # Every membership lasts equally long, so the order of joining is the order of ending.
        self._ends: dict[tuple[str, str], float] = {}
        self._sweep_seconds = min(_LONGEST_SWEEP, max(_SHORTEST_SWEEP, expiry))
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    # ---- names ----------------------------------------------------------------------------------------------------

    def new(self, prefix: str, consumer: object | None = None, task: asyncio.Task[Any] | None = None) -> str:
        """A name that nobody has or can guess, for a consumer that runs in ``task``. Unused, it costs nothing."""
        label = _NOBODYS
        if consumer is not None:
            self._owners_ever += 1
            label = f"{self._owners_ever:x}"
            self._owners[label] = Owner(consumer, task, lambda: self._owner_ended(label))
        return f"{prefix}.{self._node}!{label}.{secrets.token_hex(12)}"

    def _owner_ended(self, label: str) -> None:
        owner = self._owners.pop(label, None)
        if owner is not None:
            owner.forget()
            for member in owner.members:
                if member.mailbox.has_waiters:
                    self._free.add(label)
                else:
                    self._end(member)

    def _has_ended(self, name: str) -> bool:
        """Whether a name was a consumer's that has ended, and nobody took it over."""
        if name in self._members:
            return False
        label = _label_of(name)
        return label not in self._owners and label not in self._free

    def _member(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = Member(name, self._make_mailbox(name))
            owner = self._owners.get(_label_of(name))
            if owner is not None:
                owner.members.add(member)
            reader = self._prefix_reader(name)
            if reader is not None:
                member.mailbox.on_unclaimed = reader.add
            if self._timer is None:
                self._schedule_sweep()
        return member

    def _prefix_reader(self, name: str) -> PrefixReader | None:
        return self._prefix_readers.get(name[: name.index("!") + 1]) if self._prefix_readers else None

    def _end(self, member: Member) -> None:
        for group in member.groups:
            self._groups.remove_sink(group, member.sink(group))
            del self._ends[group, member.name]
        member.groups = ()
        member.mailbox.clear()
        self._forget(member)

    def _forget(self, member: Member) -> None:
        if self._members.get(member.name) is member:
            del self._members[member.name]
            owner = self._owners.get(_label_of(member.name))
            if owner is not None:
                owner.members.discard(member)
            reader = self._prefix_reader(member.name)
            if reader is not None:
                reader.unread.pop(member.mailbox, None)

    # ---- messages -------------------------------------------------------------------------------------------------

    def deliver(self, name: str, arrived: float, frame: bytes) -> None:
        """Put a message that was sent to ``name`` into its mailbox."""
        if not self._has_ended(name):
            self._member(name).mailbox.put((arrived, Event(name, frame)))

    def deliver_to_members(self, frame: bytes, group: str | None = None) -> None:
        """Put a message into the mailbox of every name that is in ``group``, or in any group at all."""
        now = monotonic()
        for member in self._members.values():
            if member.groups if group is None else group in member.groups:
                member.mailbox.put((now, Event(member.name, frame)))

    def put_back(self, name: str, event: Event[bytes]) -> None:
        """Return a message that was received but could not be handed on."""
        self._member(name).mailbox.put_back((monotonic(), event))

    async def receive(self, name: str) -> Any:
        """The next message that was sent to ``name`` or to a group it is in."""
        member = self._members.get(name) or self._member(name)
        mailbox = member.mailbox
        try:
            while (found := mailbox.take()) is None:
                waiter = mailbox.notifier.waiter()
                try:
                    await waiter
                except BaseException:
                    mailbox.notifier.cancel(waiter)
                    raise
            return found[1] if found[0].position is None else self._placed(*found)
        finally:
            if not member.groups and member.unused:
                self._forget(member)

    async def receive_prefix(self, prefix: str) -> Any:
        """The next message for any name that begins with ``prefix`` (which ends with ``!``) and has no reader."""
        reader = self._prefix_readers.get(prefix)
        if reader is None:
            reader = self._prefix_readers[prefix] = PrefixReader()
            for member in self._members.values():
                if member.name.startswith(prefix):
                    member.mailbox.on_unclaimed = reader.add
                    if len(member.mailbox):
                        reader.add(member.mailbox)
        event = await reader.receive()
        return event.message if event.position is None else self._placed(event, event.message)

    # ---- groups ---------------------------------------------------------------------------------------------------

    def is_in(self, group: str, name: str) -> bool:
        """Whether ``name`` listens to ``group``."""
        member = self._members.get(name)
        return member is not None and group in member.groups

    async def resume(self, group: str, name: str, make_sink: Callable[[Subscriber], ReplaySink]) -> ReplaySink:
        """Have a ``name`` that isn't in ``group`` listen to it through a sink, which goes with the membership.

        As long as it is in such a group, the name's messages do not expire: an old one may be the next in order.
        """
        member = self._member(name)
        sink = make_sink(member.mailbox)
        member.resumed = {**(member.resumed or {}), group: sink}
        member.mailbox.expiry = None
        await self.join(group, name)
        return sink

    def miss(self, group: str) -> None:
        """Tell all who resumed ``group`` that something is missing there."""
        for member in self._members.values():
            if member.resumed and group in member.resumed:
                member.resumed[group].mark_gap()

    async def join(self, group: str, name: str) -> None:
        """Have ``name`` listen to ``group``; joining again makes the membership last anew."""
        if self._has_ended(name):
            return
        member = self._member(name)
        group = sys.intern(group)  # one for all members
        if group not in member.groups:
            member.groups = (*member.groups, group)
        self._ends.pop((group, name), None)
        self._ends[group, name] = monotonic() + self._group_expiry
        if len(self._ends) == 1:
            self._schedule_sweep()
        try:
            await self._groups.add_sink(group, member.sink(group))
        except BaseException:
            # Somebody else may be joining the same, or have joined; the name may have left meanwhile.
            if group in member.groups and not self._groups.has_sink(group, member.sink(group)):
                self._leave(group, member)
            raise

    def leave(self, group: str, name: str) -> None:
        """End a membership, at once; a name that isn't in the group is no error."""
        member = self._members.get(name)
        if member is not None and group in member.groups:
            self._groups.remove_sink(group, member.sink(group))
            self._leave(group, member)

    def clear(self) -> None:
        """Forget all messages and memberships; readers go on waiting."""
        for member in list(self._members.values()):
            for group in member.groups:
                self.leave(group, member.name)
            member.mailbox.clear()
            if member.unused:
                self._forget(member)

    def _leave(self, group: str, member: Member) -> None:
        member.groups = tuple(other for other in member.groups if other != group)
        self._ends.pop((group, member.name), None)
        if member.resumed and member.resumed.pop(group, None) is not None and not member.resumed:
            member.resumed, member.mailbox.expiry = None, self._expiry
        if member.unused:
            self._forget(member)

    # ---- expiry ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule_sweep(self) -> None:
        delay = self._sweep_seconds
        if self._ends:
            delay = min(delay, max(0.0, next(iter(self._ends.values())) - monotonic()))
        self.close()
        self._timer = self._loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = monotonic()
        while self._ends:
            (group, name), end = next(iter(self._ends.items()))
            if end > now:
                break
            self.leave(group, name)
        for member in list(self._members.values()):
            member.mailbox.drop_expired(now)
            if member.unused:
                self._forget(member)
        if self._members:
            self._schedule_sweep()


def _label_of(name: str) -> str:
    """The label of whom a name was made for; one that somebody made up is nobody's."""
    given = _GIVEN.search(name)
    return _NOBODYS if given is None else given[1]
