"""Live entries and history, made one sequence: what to emit, and when to read the stream. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from .entries import BEGINNING, EPOCH_PREFIX, HistoryEntry, epoch_of, sort_key


class StreamMerger:
    """The state of one group at one node: everything up to `last` has been emitted, or reported as missed.

    Each entry names the one before it, so that an entry that came twice, too late, or after a hole shows. While
    `catching_up`, live entries wait; the owner asks the server for the group's last position and for the entries after
    `reached`, and passes those to `add_history`, until `catching_up` is over.
    """

    def __init__(self) -> None:
        self.last = b""
        """The position of the last entry that was emitted; empty while none is known."""
        self.catching_up = True
        self._waiting: list[HistoryEntry] = []
        self._asked_for: list[HistoryEntry] = []
        """Entries that wait for the history to be read once more; it must have them, or they were never published."""
        self._collected: list[HistoryEntry] = []

    @property
    def reached(self) -> bytes:
        """The position up to which the history has been read."""
        return self._collected[-1].position if self._collected else self.last

    def restart(self) -> None:
        """Begin on a new connection: live entries wait until the history has shown what was missed."""
        self.catching_up = True
        self._waiting.clear()
        self._collected.clear()

    def add_live(self, entry: HistoryEntry) -> bool:
        """Take a live entry. Returns whether it is the next to emit; if not, look at `catching_up`."""
        if self.catching_up:
            self._waiting.append(entry)
            return False
        if self._follows_last(entry):
            self.last = entry.position
            return True
        if epoch_of(entry.position) != epoch_of(self.last) or self._is_later(entry):
            self.catching_up = True
            self._waiting.append(entry)
        return False

    def add_history(self, last: bytes, entries: Sequence[HistoryEntry]) -> tuple[bool, list[HistoryEntry]]:
        """Take the server's reply: the group's last position at that moment, and a page of the entries after `reached`.

        Returns whether something is missed, and the entries to emit after reporting so. They come all at once, when
        the history has been read to its end, or not at all.
        """
        known = self.last
        for entry in entries:
            if not _follows(entry, self.reached):
                return True, self._end(last)
            self._collected.append(entry)
        if self.reached == last or not known:
            return False, self._end(last)
        # An empty page, and yet the end is not reached: the server has lost what came after, or the whole history.
        return (True, self._end(last)) if not entries else (False, [])

    def _end(self, last: bytes) -> list[HistoryEntry]:
        found = self._collected if self.reached == last else []
        waiting, self._collected, self._waiting = self._waiting, [], []
        self.last = last
        for entry in waiting:
            if self._follows_last(entry):
                self.last = entry.position
                found.append(entry)
            elif self._is_later(entry) and entry not in self._asked_for:
                self._waiting.append(entry)
            # The server knew all others when it answered: they are in the history, or in one that it has lost.
        self._asked_for = list(self._waiting)
        self.catching_up = bool(self._waiting)
        return found

    def _follows_last(self, entry: HistoryEntry) -> bool:
        # Over an unbroken connection, an epoch that is seen from its first entry on has taken nothing away.
        return _follows(entry, self.last) or (
            entry.previous_id == BEGINNING and epoch_of(entry.position) != epoch_of(self.last)
        )

    def _is_later(self, entry: HistoryEntry) -> bool:
        return epoch_of(entry.position) == epoch_of(self.last) and sort_key(entry.position) > sort_key(self.last)


def _follows(entry: HistoryEntry, position: bytes) -> bool:
    # In another epoch an id may come once more.
    return entry.position[:EPOCH_PREFIX] + entry.previous_id == position
