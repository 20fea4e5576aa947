"""The histories of groups in memory: the last messages of each, bounded in number, age and bytes."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from secrets import token_hex
from time import monotonic
from typing import NamedTuple

from ...core.events import Event
from ..common.entries import BEGINNING, NO_EPOCH, HistoryEntry, entry_id, epoch_of, sort_key
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


class GroupHistory:
    """The last messages of one group; they are numbered from 1."""

    __slots__ = ("epoch", "first", "last", "messages", "size", "used")

    def __init__(self) -> None:
        self.epoch = token_hex(4)
        self.first = 1
        """The number of the first message that is kept, or of the next one."""
        self.last = 0
        """The number of the last message."""
        self.messages: deque[tuple[float, Event[bytes]]] = deque()
        """When each was published, and its event."""
        self.size = 0
        """The bytes of all of them."""
        self.used = 0.0

    @property
    def position(self) -> bytes:
        """The position of the last message, or before the first one."""
        return self.position_of(self.last)

    def position_of(self, number: int) -> bytes:
        """Return the position of a message; 0 is before the first one."""
        return f"{self.epoch}-{number}-0".encode()

    def event(self, number: int) -> Event[bytes]:
        """Return a message that is kept."""
        return self.messages[number - self.first][1]

    def drop_first(self) -> None:
        self.size -= len(self.messages.popleft()[1].message)
        self.first += 1

    def drop_older(self, than: float) -> None:
        while self.messages and self.messages[0][0] < than:
            self.drop_first()

    def page(self, reached: bytes) -> HistoryPage:
        """Return the first messages after a position."""
        last = self.position
        if reached == last or epoch_of(reached) != epoch_of(last):
            return HistoryPage(last, [])
        begin = max(sort_key(reached)[0] + 1, self.first)
        found = islice(self.messages, begin - self.first, begin - self.first + _PAGE)
        return HistoryPage(last, [self._entry(number, event) for number, (_, event) in enumerate(found, begin)])

    def _entry(self, number: int, event: Event[bytes]) -> HistoryEntry:
        return HistoryEntry(self.position_of(number), entry_id(self.position_of(number - 1)), event.message)


def position_before(position: str) -> bytes:
    """Return the position of the message before the one with this position."""
    epoch, number, _ = position.split("-")
    return f"{epoch}-{int(number) - 1}-0".encode()


class Histories:
    """The histories of all groups. The broker's lock is held in each call."""

    def __init__(self) -> None:
        self._limits = HistoryLimits(0, 0.0, 0)
        self._configured = False
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
            history = self._groups[group] = GroupHistory()
        if history is None:
            return Event(group, message)
        length, age, max_bytes = self._limits
        now = monotonic()
        history.last = number = history.last + 1
        event = Event(group, message, None, None, f"{history.epoch}-{number}-0")
        messages = history.messages
        messages.append((now, event))
        history.size += len(message)
        # The last message stays, however large it is.
        while len(messages) > length or (history.size > max_bytes and len(messages) > 1):
            history.drop_first()
        if now > self._next_sweep:
            self._sweep(now, age)
        return event

    def get(self, group: str) -> GroupHistory:
        """Return the history of a group, without what is too old, and keep its position for those who have it."""
        history = self._groups.get(group)
        if history is None:
            history = GroupHistory()
            if group not in self._groups:
                self._groups[group] = history
        history.used = monotonic()
        history.drop_older(history.used - self._limits.age)
        return history

    def page(self, group: str, reached: bytes) -> HistoryPage:
        """Return the first messages after a position. A group that nothing was published to takes no memory."""
        if self._groups.get(group) is None:
            return HistoryPage(b"%b-%b" % (NO_EPOCH, BEGINNING), [])
        return self.get(group).page(reached)

    def latest(self, group: str, limit: int | None) -> list[Event[bytes]]:
        """Return the last messages, the oldest first."""
        if self._groups.get(group) is None:
            return []
        messages = self.get(group).messages
        begin = 0 if limit is None else max(0, len(messages) - limit)
        return [event for _, event in islice(messages, begin, None)]

    def purge(self, prefix: str) -> None:
        """Forget the messages of all groups whose names begin with ``prefix``; positions go on."""
        for group, history in self._groups.items():
            if history is not None and group.startswith(prefix):
                history.drop_older(math.inf)
                history.used = monotonic()

    def clear(self) -> None:
        """Forget everything, as a broker that lost its memory."""
        self._groups = {group: None for group, history in self._groups.items() if history is None}

    def _sweep(self, now: float, age: float) -> None:
        self._next_sweep = now + min(_SWEEP_SECONDS, age)
        for group, history in list(self._groups.items()):
            if history is not None:
                if history.messages:
                    history.used = max(history.used, history.messages[-1][0])
                history.drop_older(now - age)
                if not history.messages and history.used < now - age - _POSITION_SECONDS:
                    del self._groups[group]
