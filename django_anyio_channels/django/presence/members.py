"""The members of one group whose channels are at this node.

They are kept in parts of a few members, which are the records at the broker: a member that comes or goes costs the
writing of one part, however many members there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from .records import (
    BYTES_AT_ONCE,
    LARGEST_METAS,
    MEMBERS_AT_ONCE,
    MOST_METAS,
    Entry,
    Head,
    Update,
    encode_counts,
    encode_head,
    encode_part,
)

PART_SIZE = 32
"""Members."""


@dataclass(slots=True, eq=False)
class _Present:
    """One member."""

    since: float
    part: int
    channels: dict[str, bytes] = field(default_factory=dict)
    """The meta of each of its channels, the latest one last."""
    last_meta: bytes = b""
    """That of the last channel that left."""
    absences: int = 0
    """How often the last channel has left."""

    @property
    def entry(self) -> Entry:
        metas = list(self.channels.values())[-MOST_METAS:]
        size = sum(map(len, metas))
        while size > LARGEST_METAS:
            size -= len(metas.pop(0))
        return Entry(self.since, len(self.channels), metas or [self.last_meta])


class Change(NamedTuple):
    """What a node has to write and to tell."""

    head: bytes
    """Empty if there are no members."""
    parts: dict[int, tuple[bytes, bytes]]
    """The members of each part, and their counts; both are empty for a part without members."""
    update: Update


class LocalMembers:
    """The members of one group at this node, and what the other nodes do not know of them yet."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._members: dict[str, _Present] = {}
        self._member_of: dict[str, str] = {}
        self._parts: list[dict[str, None]] = []
        self._with_room: list[int] = []
        """The parts with less than `PART_SIZE` members."""
        self._changed: dict[str, int] = {}
        """The members that have changed, each with its part."""
        self._other_parts: set[int] = set()
        """More parts to be written."""
        self._previous = self._number = 0
        """The numbers of the last two changes; 0 before the first one, and while there are no members."""

    def __len__(self) -> int:
        return len(self._members)

    @property
    def has_changed(self) -> bool:
        """Whether `take` has something to return."""
        return bool(self._changed)

    def join(self, channel: str, member: str, meta: bytes, since: float) -> tuple[str, int] | None:
        """Add a channel of a member, or change its member or meta. ``since`` is for a new member.

        Returns what `leave` returns, if the channel was another member's.
        """
        left = None
        former = self._member_of.get(channel)
        if former is not None:
            left = self.leave(channel) if former != member else None
            self._members[former].channels.pop(channel, None)
        present = self._members.get(member)
        if present is None:
            present = self._members[member] = _Present(since, self._place(member))
        present.channels[channel] = meta
        self._member_of[channel] = member
        self._changed[member] = present.part
        return left

    def leave(self, channel: str) -> tuple[str, int] | None:
        """Remove a channel. If it was the last one of its member, return the member and the number of its absence."""
        member = self._member_of.pop(channel, None)
        if member is None:
            return None
        present = self._members[member]
        present.last_meta = present.channels.pop(channel)
        self._changed[member] = present.part
        if present.channels:
            return None
        present.absences += 1
        return member, present.absences

    def end(self, member: str, absence: int) -> None:
        """Remove a member whose grace period has ended, unless it has come back since this absence."""
        present = self._members.get(member)
        if present is not None and not present.channels and present.absences == absence:
            if len(self._parts[present.part]) == PART_SIZE:
                self._with_room.append(present.part)
            del self._members[member], self._parts[present.part][member]
            self._changed[member] = present.part
            self._other_parts.add(present.part)  # it may come back in another one

    def take(self, number: int) -> Change:
        """Return the next change, with a number that is greater than those of all former ones."""
        parts, self._other_parts = self._other_parts, set()
        put, removed = {}, []
        size = 0
        for member in list(islice(self._changed, MEMBERS_AT_ONCE)):
            if size > BYTES_AT_ONCE:
                break
            parts.add(self._changed.pop(member))
            if member in self._members:
                entry = put[member] = self._members[member].entry
                size += sum(map(len, entry.metas))
            else:
                removed.append(member)
        update = Update(self._node, self._number, number, put, removed)
        self._previous, self._number = self._number, number
        change = Change(self._head(), self._parts_of(parts), update)
        if not self._members:
            self._previous = self._number = 0
        return change

    def all(self) -> Change:
        """Return all records as they should be at the broker, and an event that says which change was the last."""
        update = Update(self._node, self._number, self._number)
        return Change(self._head(), self._parts_of(range(len(self._parts))), update)

    def mark_all(self) -> None:
        """Have `take` return all members again, because other nodes have given this one up."""
        self._previous = self._number = 0
        for member, present in self._members.items():
            self._changed[member] = present.part

    def restore(self, change: Change) -> None:
        """Have `take` return a change again that has perhaps reached nobody."""
        self._other_parts.update(change.parts)
        for member in (*change.update.put, *change.update.removed):
            self._changed.setdefault(member, min(change.parts))

    def _place(self, member: str) -> int:
        if not self._with_room:
            self._with_room.append(len(self._parts))
            self._parts.append({})
        number = self._with_room[-1]
        part = self._parts[number]
        part[member] = None
        if len(part) == PART_SIZE:
            self._with_room.pop()
        return number

    def _head(self) -> bytes:
        return encode_head(Head(self._previous, self._number, len(self._members))) if self._members else b""

    def _parts_of(self, parts: Iterable[int]) -> dict[int, tuple[bytes, bytes]]:
        contents = {}
        for part in sorted(parts):
            entries = {member: self._members[member].entry for member in self._parts[part]}
            contents[part] = (encode_part(entries), encode_counts(entries)) if entries else (b"", b"")
        return contents
