"""Live messages and history, made one: what to hand out, and when to read the stream. No input, no output."""

from __future__ import annotations

from collections.abc import Sequence

from .entries import BEGINNING, Frame, epoch_of, order_of


class Merge:
    """The state of one group at one node: everything up to `last` has been handed out, or told to be missed.

    Each frame names the one before it, so that whatever came over the wire twice, too late, or with a hole before it,
    shows. As long as `reading`, live frames wait; who owns this asks the server for the group's last position and for
    what comes after `reached`, and passes that to `history`, until `reading` is over.
    """

    def __init__(self) -> None:
        self.last = b""
        """The position of the last frame that was handed out; empty as long as none is known."""
        self.reading = True
        self._waiting: list[Frame] = []
        self._asked_for: list[Frame] = []
        """What waits for the history to be read once more; that must have it, or nobody ever published it."""
        self._collected: list[Frame] = []

    @property
    def reached(self) -> bytes:
        """Up to where the history has been read."""
        return self._collected[-1].position if self._collected else self.last

    def begin(self) -> None:
        """The link is new: live frames wait until the history has told what was missed."""
        self.reading = True
        self._waiting.clear()
        self._collected.clear()

    def arrive(self, frame: Frame) -> bool:
        """Take a live frame. Returns whether it is the next to hand out; if not, look at `reading`."""
        if self.reading:
            self._waiting.append(frame)
            return False
        if self._follows(frame):
            self.last = frame.position
            return True
        if epoch_of(frame.position) != epoch_of(self.last) or self._comes_later(frame):
            self.reading = True
            self._waiting.append(frame)
        return False

    def history(self, last: bytes, frames: Sequence[Frame]) -> tuple[bool, list[Frame]]:
        """Take the server's answer: the group's last position at that moment, and a page of what comes after `reached`.

        Returns whether something is missed, and the frames to hand out after telling so. They come all at once, when
        the history has been read to its end, or not at all.
        """
        known = self.last
        for frame in frames:
            if not frame.follows(self.reached):
                return True, self._end(last)
            self._collected.append(frame)
        if self.reached == last or not known:
            return False, self._end(last)
        # An empty page, and yet the end is not reached: the server has forgotten what came after, or it itself.
        return (True, self._end(last)) if not frames else (False, [])

    def _end(self, last: bytes) -> list[Frame]:
        found = self._collected if self.reached == last else []
        waiting, self._collected, self._waiting = self._waiting, [], []
        self.last = last
        for frame in waiting:
            if self._follows(frame):
                self.last = frame.position
                found.append(frame)
            elif self._comes_later(frame) and frame not in self._asked_for:
                self._waiting.append(frame)
            # The server knew all others when it answered: they are in the history, or in one that it has lost.
        self._asked_for = list(self._waiting)
        self.reading = bool(self._waiting)
        return found

    def _follows(self, frame: Frame) -> bool:
        # Over an unbroken link, an epoch that is seen from its first frame on has taken nothing away.
        return frame.follows(self.last) or (
            frame.before == BEGINNING and epoch_of(frame.position) != epoch_of(self.last)
        )

    def _comes_later(self, frame: Frame) -> bool:
        return epoch_of(frame.position) == epoch_of(self.last) and order_of(frame.position) > order_of(self.last)
