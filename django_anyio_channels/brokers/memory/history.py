"""The histories of groups in memory: the last messages of each, bounded in number, age and bytes."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from secrets import token_hex
from time import monotonic, time_ns
from typing import NamedTuple

from ...core.events import Event
from ..common.entries import BEGINNING, NOWHERE, HistoryEntry, entry_id, epoch_of, sort_key
from ..common.history import HistoryPage

_POSITION_SECONDS = 24 * 3600.0
"""For which a group's position is known longer than its last message."""
_SWEEP_SECONDS = 10.0
_PAGE = 1000


class HistoryLimits(NamedTuple):
    """How much is kept of each group."""

    length: int
    """Messages; 0 for no history at all."""
    age: float
    """Seconds."""
    max_bytes: int

    @property
    def for_small(self) -> int:
        """The bytes that small messages may take together; large ones may take the others."""
        return self.max_bytes // 4

    @property
    def large(self) -> int:
        """From how many bytes on a message is large, so that all small ones have room."""
        return max(1, self.for_small // self.length)


class GroupHistory:
    """The last messages of one group; they are numbered from 1.

    Small messages are bounded by their number, so that their bytes cost no accounting.
    """

    __slots__ = ("_large", "_large_bytes", "last", "messages", "prefix", "times", "used")

    def __init__(self, length: int) -> None:
        # By the time, so that positions of a later epoch are greater.
        self.prefix: str = f"{token_hex(4)}-{time_ns() // 1_000_000}-"
        """Of the positions of its messages, before their numbers."""
        self.last: int = 0
        """The number of the last message."""
        # Not events: what a garbage collector has to visit would cost more than making them again.
        self.messages: deque[bytes] = deque(maxlen=length)
        self.times: deque[float] = deque(maxlen=length)
        """When each was published."""
        self.used: float = 0.0
        self._large: deque[tuple[int, int]] = deque()
        """The number and the bytes of each large message."""
        self._large_bytes = 0

    @property
    def first(self) -> int:
        """The number of the first message that is kept, or of the next one."""
        return self.last - len(self.messages) + 1

    @property
    def _epoch(self) -> bytes:
        return epoch_of(self.prefix.encode())

    @property
    def position(self) -> bytes:
        """The position of the last message, or before the first one."""
        return self.position_of(self.last)

    def position_of(self, number: int) -> bytes:
        """Return the position of a message; 0 is before the first one."""
        return f"{self.prefix}{number}".encode() if number else self._epoch + b"-" + BEGINNING

    def message(self, number: int) -> bytes:
        """Return a message that is kept."""
        return self.messages[number - self.first]

    def add_large(self, size: int, limit: int) -> None:
        """Account for the last message, which is large. It stays, however large it is."""
        self._large.append((self.last, size))
        self._large_bytes += size
        while len(self._large) > 1 and (self._large_bytes > limit or self._large[0][0] < self.first):
            number, size = self._large.popleft()
            self._large_bytes -= size
            while self.first <= number:
                self._drop_first()

    def drop_older(self, than: float) -> None:
        while self.times and self.times[0] < than:
            self._drop_first()

    def _drop_first(self) -> None:
        self.messages.popleft()
        self.times.popleft()

    def page(self, reached: bytes) -> HistoryPage:
        """Return the first messages after a position."""
        last = self.position
        if reached == last or epoch_of(reached) != self._epoch:
            return HistoryPage(last, [])
        begin = max(min(sort_key(reached)[1], self.last) + 1, self.first)
        return HistoryPage(last, self.entries(begin, _PAGE))

    def entries(self, begin: int, count: int) -> list[HistoryEntry]:
        """Return messages from a number on."""
        found = islice(self.messages, begin - self.first, begin - self.first + count)
        return [self._entry(number, message) for number, message in enumerate(found, begin)]

    def _entry(self, number: int, message: bytes) -> HistoryEntry:
        return HistoryEntry(self.position_of(number), entry_id(self.position_of(number - 1)), message)


class HistoryStore:
    """The histories of all groups. The broker's lock is held in each call."""

    def __init__(self) -> None:
        self._limits = HistoryLimits(0, 0.0, 0)
        self._configured = False
        self._large = self._for_large = 0
        self._groups: dict[str, GroupHistory | None] = {}
        """None for a group whose history is disabled."""
        self._next_sweep = 0.0

    def configure(self, limits: HistoryLimits) -> None:
        """Set how much is kept, the same by all layers of a broker. Raises `ValueError` for something else."""
        if self._configured and self._limits != limits:
            raise ValueError(
                "Layers with one InMemoryBroker keep one history: give them the same history_length, history_age and "
                "history_bytes"
            )
        self._limits, self._configured = limits, True
        if limits.length:
            self._large, self._for_large = limits.large, limits.max_bytes - limits.for_small

    def disable(self, group: str) -> None:
        """Keep nothing of a group."""
        self._groups[group] = None

    def keeps(self, group: str) -> bool:
        """Return whether the messages of a group are kept."""
        return self._limits.length > 0 and self._groups.get(group, self) is not None

    def append(self, group: str, message: bytes) -> Event[bytes]:
        """Keep a message as the last one of its group, and return its event."""
        try:
            history = self._groups[group]
        except KeyError:
            history = self._groups[group] = GroupHistory(self._limits.length)
        if history is None:
            return Event(group, message)
        now = monotonic()
        history.last = number = history.last + 1
        event = Event(group, message, None, None, f"{history.prefix}{number}")
        history.messages.append(message)
        history.times.append(now)
        if len(message) >= self._large:
            history.add_large(len(message), self._for_large)
        if now > self._next_sweep:
            self._sweep(now)
        return event

    def get(self, group: str) -> GroupHistory:
        """Return the history of a group, without what is too old, and keep its position for those who have it."""
        history = self._groups.get(group)
        if history is None:
            history = GroupHistory(self._limits.length)
            if group not in self._groups:
                self._groups[group] = history
        history.used = monotonic()
        history.drop_older(history.used - self._limits.age)
        return history

    def page(self, group: str, reached: bytes) -> HistoryPage:
        """Return the first messages after a position. A group that nothing was published to takes no memory."""
        if self._groups.get(group) is None:
            return HistoryPage(NOWHERE, [])
        return self.get(group).page(reached)

    def latest(self, group: str, limit: int | None) -> list[HistoryEntry]:
        """Return the last messages, the oldest first."""
        if self._groups.get(group) is None:
            return []
        history = self.get(group)
        count = len(history.messages) if limit is None else min(limit, len(history.messages))
        return history.entries(history.last + 1 - count, count)

    def purge(self, prefix: str) -> None:
        """Forget the messages of all groups whose names begin with ``prefix``; positions go on."""
        for group, history in self._groups.items():
            if history is not None and group.startswith(prefix):
                history.drop_older(math.inf)
                history.used = monotonic()

    def clear(self) -> None:
        """Forget everything, as a broker that lost its memory."""
        self._groups = {group: None for group, history in self._groups.items() if history is None}

    def _sweep(self, now: float) -> None:
        age = self._limits.age
        self._next_sweep = now + min(_SWEEP_SECONDS, age)
        for group, history in list(self._groups.items()):
            if history is not None:
                if history.messages:
                    history.used = max(history.used, history.times[-1])
                history.drop_older(now - age)
                if not history.messages and history.used < now - age - _POSITION_SECONDS:
                    del self._groups[group]
