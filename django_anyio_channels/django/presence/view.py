"""The members of one group at all nodes, as their events and records tell.

Every node gets the events in one order from the broker and draws the same conclusions, so all of them see members come
and leave in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from ...core.exceptions import DecodeError
from . import timing
from .records import Entry, NodeRecords, Update, merge

MOST_MEMBERS = 200_000
"""Of one group; the events about more of them are dropped."""


@dataclass(slots=True)
class _Node:
    """What is known of one node."""

    number: int
    """That of the last change that its members include."""
    applied: int
    """That of the last change that they include for sure: a record of the next one may have been read before others."""
    members: dict[str, None] = field(default_factory=dict)
    absent_since: float | None = None
    """When it was first found to have no records, though it has members here; a time of `time.monotonic`."""


@dataclass(slots=True)
class Difference:
    """What changes for those who watch the members."""

    joined: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    """Members with other metas."""
    left: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.joined or self.updated or self.left)

    def halves(self) -> tuple[Difference, Difference] | None:
        """Split it; None if there is one member only."""
        names = self.joined + self.updated + self.left
        if len(names) < 2:
            return None
        first = set(names[: len(names) // 2])
        columns = self.joined, self.updated, self.left
        return (
            Difference(*([name for name in column if name in first] for column in columns)),
            Difference(*([name for name in column if name not in first] for column in columns)),
        )


class GroupView:
    """The merged members of one group."""

    def __init__(self) -> None:
        self.members: dict[str, dict[str, Entry]] = {}
        """The entries of each member by their nodes."""
        self._nodes: dict[str, _Node] = {}

    @property
    def nodes(self) -> dict[str, int]:
        """The nodes that have members, each with the number of its last change."""
        return {node: state.number for node, state in self._nodes.items()}

    def find(self, member: str) -> Entry | None:
        """Return the merged entry of a member, or None if it is not here."""
        entries = self.members.get(member)
        return None if entries is None else merge(entries.values())

    def since(self, member: str) -> float:
        """Return since when a member is here, in seconds since the epoch."""
        return min(entry.since for entry in self.members[member].values())

    def merged(self) -> dict[str, Entry]:
        """Return the merged entries of all members."""
        return {member: merge(entries.values()) for member, entries in self.members.items()}

    def update(self, update: Update, *, forced: bool = False) -> Difference | None:
        """Apply a change. Returns None if one before it was missed, unless this one is to be applied all the same.

        Raises `DecodeError` for more members than a group may have.
        """
        state = self._nodes.get(update.node)
        known, applied = (state.number, state.applied) if state is not None else (0, 0)
        if update.number <= applied:
            return Difference()
        if update.previous > known and not forced:
            return None
        if len(self.members) + len(update.put) > MOST_MEMBERS:
            raise DecodeError(f"its group would have more than {MOST_MEMBERS:,} members")
        with self._comparing() as (difference, touch):
            if state is not None and not update.previous and update.number > known:
                self._remove_node(update.node, touch)  # it has begun again
                state = None
            if state is None:
                state = self._nodes[update.node] = _Node(0, 0)
            state.number = state.applied = max(update.number, known)
            state.absent_since = None
            for member in update.removed:
                touch(member)
                self._remove(update.node, member)
            for member, entry in update.put.items():
                touch(member)
                state.members[member] = None
                self.members.setdefault(member, {})[update.node] = entry
            if not state.members:
                del self._nodes[update.node]
        return difference

    def remove_nodes(self, nodes: Mapping[str, int]) -> Difference:
        """Remove nodes, unless changes are known that came after those numbers."""
        with self._comparing() as (difference, touch):
            for node, number in nodes.items():
                if node in self._nodes and self._nodes[node].applied <= number:
                    self._remove_node(node, touch)
        return difference

    @property
    def has_absent(self) -> bool:
        """Whether `load` did not find the records of a node."""
        return any(state.absent_since is not None for state in self._nodes.values())

    def load(self, records: Mapping[str, NodeRecords]) -> Difference:
        """Take over what was read of nodes.

        A node of which there is nothing complete either has no members any more, or has yet to write its records again,
        after the broker has lost them. So it is removed if that is still so `LIFETIME` later.
        """
        now = monotonic()
        with self._comparing() as (difference, touch):
            for node, state in list(self._nodes.items()):
                if node in records and records[node].are_complete:
                    state.absent_since = None
                elif state.absent_since is None:
                    state.absent_since = now
                elif now - state.absent_since >= timing.LIFETIME:
                    self._remove_node(node, touch)
            for node, (head, members) in records.items():
                if node in self._nodes:
                    if self._nodes[node].number == head.number or not records[node].are_complete:
                        continue
                    self._remove_node(node, touch)
                self._nodes[node] = _Node(head.number, head.previous)
                for member, entry in members.items():
                    touch(member)
                    self._nodes[node].members[member] = None
                    self.members.setdefault(member, {})[node] = entry
        return difference

    def _remove_node(self, node: str, touch: _Touch) -> None:
        for member in sorted(self._nodes[node].members):
            touch(member)
            self._remove(node, member)
        del self._nodes[node]

    def _remove(self, node: str, member: str) -> None:
        self._nodes[node].members.pop(member, None)
        entries = self.members.get(member, {})
        entries.pop(node, None)
        if not entries:
            self.members.pop(member, None)

    @contextmanager
    def _comparing(self) -> Iterator[tuple[Difference, _Touch]]:
        """Compare the members that are touched in the body with what they were before."""
        before: dict[str, Entry | None] = {}
        difference = Difference()

        def touch(member: str) -> None:
            if member not in before:
                before[member] = self.find(member)

        yield difference, touch
        for member, old in before.items():
            new = self.find(member)
            if new is None and old is not None:
                difference.left.append(member)
            elif new is not None and old is None:
                difference.joined.append(member)
            elif new is not None and old is not None and new.metas != old.metas:
                difference.updated.append(member)


_Touch = Callable[[str], None]
