"""Live entries and history, made one sequence: what to emit, and when to read the history. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from .entries import BEGINNING, EPOCH_PREFIX, NO_EPOCH, HistoryEntry, epoch_of, is_after, sort_key


class HistoryMerger:
    """The state of one group at one node: everything up to `last` has been emitted, or reported as missed.

    Each entry names the one before it, so that an entry that came twice, too late, or after a hole shows. While
    `catching_up`, live entries wait; the owner asks the server for the group's last position and for the entries after
    `reached`, and passes those to `add_history`, until `catching_up` is over.

    The history is the truth: whoever may publish to the group can forge a live entry. So an entry that does not
    continue what was emitted has the history read from before the last live entry on, which may have been forged.
    """

    def __init__(self) -> None:
        self.last = b""
        """The position of the last entry that was emitted; empty while none is known."""
        self.catching_up = True
        self.forged = 0
        """How many live entries the history turned out not to have."""
        self._confirmed = b""
        """The last position that the server has named."""
        self._before_last = b""
        """The position before `last`, if `last` was live."""
        self._doubted = b""
        """The last live entry that was emitted, while the history has not confirmed it; `last` is the one before."""
        self._was_down = False
        self._entering = False
        """Whether `last` is the beginning of an epoch that is being read."""
        self._reported = False
        """Whether what is missed before this epoch was reported."""
        self._older = (0, 0)
        """In this epoch: up to where entries are older than the outage."""
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
        self._was_down = True
        self._waiting.clear()
        self._collected.clear()
        self._catch_up()

    def catch_up(self) -> None:
        """Have the history read: something was published that does not come live."""
        if not self.catching_up:
            self._catch_up()

    def add_live(self, entry: HistoryEntry) -> bool:
        """Take a live entry. Returns whether it is the next to emit; if not, look at `catching_up`."""
        if self.catching_up:
            self._waiting.append(entry)
            return False
        if self._follows_last(entry):
            self._before_last, self.last = self.last, entry.position
            return True
        if is_after(entry.position, self._confirmed):
            self._waiting.append(entry)
            self._catch_up()
        return False

    def add_history(
        self, last: bytes, entries: Sequence[HistoryEntry], *, memory_lost: bool = False
    ) -> tuple[bool, list[HistoryEntry]]:
        """Take the server's reply: the group's last position at that moment, and a page of the entries after `reached`.

        ``memory_lost`` tells that the server, or one of a cluster, has lost its memory in the outage, and with it what
        was published to groups without an epoch.

        Returns whether something is missed, and the entries to emit after reporting so. They come all at once, when
        the history has been read to its end, or not at all.
        """
        if not self.last:
            return False, self._end(last)
        if last == self._confirmed and not self._collected:
            nowhere = memory_lost and epoch_of(last) == NO_EPOCH
            return self._was_down and (nowhere or self._doubted != b""), self._end(last)
        if epoch_of(last) != epoch_of(self.last):
            return self._enter_epoch(last, memory_lost)
        missed = False
        for entry in entries:
            if not self._continues(entry):
                if not self._entering or self._collected:
                    return True, self._end(last)
                missed = not self._reported
                self._reported = True
            self._collected.append(entry)
        if self.reached == last or self._doubted == last:
            missed = missed or (self._was_down and not self._is_confirmed(last))
            return missed, self._end(last)
        if entries:
            return missed, []
        # An empty page, and yet the end is not reached: the server has lost what came after, or the whole history.
        return not self._reported, self._end(last)

    def _catch_up(self) -> None:
        self.catching_up = True
        if self.last != self._confirmed and not self._doubted:
            self._doubted, self.last = self.last, self._before_last

    def _enter_epoch(self, last: bytes, memory_lost: bool) -> tuple[bool, list[HistoryEntry]]:
        """Begin to read the history of another epoch than `last` is of.

        Over an unbroken connection, an epoch that is seen from its first entry on has taken nothing away. After an
        outage the server has lost its memory; what it has now is younger, unless another server has taken over.
        """
        emitted = self._doubted or self.last
        if epoch_of(emitted) != epoch_of(last):
            self._doubted = b""
            self._entering = True
            if self._was_down:
                self._older = max(self._older, sort_key(emitted))
                self._reported = self._reported or memory_lost or epoch_of(emitted) != NO_EPOCH
        self.last = self._confirmed = last[:EPOCH_PREFIX] + BEGINNING
        self._collected.clear()
        return self._reported, self._end(last) if last == self.last else []

    def _continues(self, entry: HistoryEntry) -> bool:
        return _follows(entry, self.reached) or (not self._collected and _follows(entry, self._doubted))

    def _is_confirmed(self, last: bytes) -> bool:
        """Return whether the history up to ``last`` has the entry that was in doubt."""
        first = self._collected[0] if self._collected else None
        known = first is not None and (first.position == self._doubted or _follows(first, self._doubted))
        return known or self._doubted in (b"", last)

    def _end(self, last: bytes) -> list[HistoryEntry]:
        found: list[HistoryEntry] = []
        if self.reached == last:
            self.forged += not (self._was_down or self._is_confirmed(last))
            new = (entry for entry in self._collected if entry.position != self._doubted)
            found = [entry for entry in new if sort_key(entry.position) > self._older]
        waiting, self._collected, self._waiting = self._waiting, [], []
        self.last = self._confirmed = last
        self._doubted, self._older = b"", (0, 0)
        self._was_down = self._entering = self._reported = False
        for entry in waiting:
            if self._follows_last(entry):
                self._before_last, self.last = self.last, entry.position
                found.append(entry)
            elif is_after(entry.position, self.last):
                if entry in self._asked_for:
                    self.forged += 1
                else:
                    self._waiting.append(entry)
            # The server knew all others when it answered: they are in the history, or in one that it has lost.
        self._asked_for = list(self._waiting)
        self.catching_up = bool(self._waiting)
        return found

    def _follows_last(self, entry: HistoryEntry) -> bool:
        if entry.previous_id == BEGINNING:
            return self.last[EPOCH_PREFIX:] == BEGINNING and epoch_of(self.last) in (NO_EPOCH, epoch_of(entry.position))
        return _follows(entry, self.last)


def _follows(entry: HistoryEntry, position: bytes) -> bool:
    # In another epoch an id may come once more.
    return entry.position[:EPOCH_PREFIX] + entry.previous_id == position
