"""The channel names that live in this event loop: their mailboxes, groups and owners."""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from .event import Event
from .subscriber import Subscriber
from .waiting import Bell, waiter_factory

_LONGEST_SWEEP = 60.0
_SHORTEST_SWEEP = 0.05


class Groups(Protocol):
    """Where mailboxes listen to groups."""

    async def attach(self, group: str, sink: Subscriber) -> None: ...

    def detach(self, group: str, sink: Subscriber) -> None: ...


class Member:
    """One living name."""

    __slots__ = ("groups", "mailbox", "name")

    def __init__(self, name: str, mailbox: Subscriber) -> None:
        self.name = name
        self.mailbox = mailbox
        self.groups: tuple[str, ...] = ()

    @property
    def unused(self) -> bool:
        return not self.groups and not len(self.mailbox) and not self.mailbox.waited_for


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
        self.bell = Bell(waiter_factory())
        self.unread: dict[Subscriber, None] = {}

    def add(self, mailbox: Subscriber) -> None:
        self.unread[mailbox] = None
        self.bell.ring()

    async def receive(self) -> Event[Any]:
        while True:
            while self.unread:
                mailbox = next(iter(self.unread))
                event = None if mailbox.waited_for else mailbox.receive_nowait()
                if event is not None:
                    return event
                del self.unread[mailbox]
            await self.bell.wait()


class Names:
    """A name lives while it has messages, a waiting reader or a group, and no longer than that.

    The names of a consumer go with it, unless somebody else waits on them: Channels never says that it has ended.
    Unread messages go after ``expiry`` seconds, memberships ``group_expiry`` seconds after the last `join`.
    """

    def __init__(
        self,
        node: str,
        groups: Groups,
        make_mailbox: Callable[[str], Subscriber],
        *,
        expiry: float,
        group_expiry: float,
    ) -> None:
        self._node = node
        self._groups = groups
        self._make_mailbox = make_mailbox
        self._group_expiry = group_expiry
        self._members: dict[str, Member] = {}
        self._prefix_readers: dict[str, PrefixReader] = {}
        self._owners: dict[str, Owner] = {}
        self._owners_ever = 0
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
        label = "0"
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
                if not member.mailbox.waited_for:
                    self._end(member)

    def _member(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = Member(name, self._make_mailbox(name))
            owner = self._owners.get(_label_of(name))
            if owner is not None:
                owner.members.add(member)
            reader = self._prefix_reader(name)
            if reader is not None:
                member.mailbox.unattended = reader.add
            if self._timer is None:
                self._schedule_sweep()
        return member

    def _prefix_reader(self, name: str) -> PrefixReader | None:
        return self._prefix_readers.get(name[: name.index("!") + 1]) if self._prefix_readers else None

    def _end(self, member: Member) -> None:
        for group in member.groups:
            self._groups.detach(group, member.mailbox)
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
        self._member(name).mailbox.put((arrived, Event(name, frame)))

    def deliver_to_members(self, frame: bytes) -> None:
        """Put a message into the mailbox of every name that is in a group."""
        now = monotonic()
        for member in self._members.values():
            if member.groups:
                member.mailbox.put((now, Event(member.name, frame)))

    def put_back(self, name: str, frame: bytes) -> None:
        """Return a message that was received but could not be handed on."""
        self._member(name).mailbox.put_back((monotonic(), Event(name, frame)))

    async def receive(self, name: str) -> Any:
        """The next message that was sent to ``name`` or to a group it is in."""
        member = self._member(name)
        mailbox = member.mailbox
        try:
            while (event := mailbox.receive_nowait()) is None:
                await mailbox.wait()
            return event.message
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
                    member.mailbox.unattended = reader.add
                    if len(member.mailbox):
                        reader.add(member.mailbox)
        return (await reader.receive()).message

    # ---- groups ---------------------------------------------------------------------------------------------------

    async def join(self, group: str, name: str) -> None:
        """Have ``name`` listen to ``group``; joining again makes the membership last anew."""
        member = self._member(name)
        is_new = group not in member.groups
        if is_new:
            member.groups = (*member.groups, group)
        self._ends.pop((group, name), None)
        self._ends[group, name] = monotonic() + self._group_expiry
        if len(self._ends) == 1:
            self._schedule_sweep()
        try:
            await self._groups.attach(group, member.mailbox)
        except BaseException:
            if is_new:
                self._leave(group, member)
            raise

    def leave(self, group: str, name: str) -> None:
        """End a membership, at once; a name that isn't in the group is no error."""
        member = self._members.get(name)
        if member is not None and group in member.groups:
            self._groups.detach(group, member.mailbox)
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
            member.mailbox.forget_expired(now)
            if member.unused:
                self._forget(member)
        if self._members:
            self._schedule_sweep()


def _label_of(name: str) -> str:
    return name.partition("!")[2].partition(".")[0]
