"""How often channels came back to a group, by what they got."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from ...core.exceptions import InvalidPosition, PositionLost

T = TypeVar("T")

RESULTS = ("new", "complete", "lost", "invalid")


class ResumeCounts:
    """Counts the results of `Node.resume`. A call that fails for another reason is not counted."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(RESULTS, 0)

    async def counted(self, resume: Awaitable[T], since: str | None) -> T:
        """Await it, and count its result."""
        try:
            position = await resume
        except PositionLost:
            self.counts["lost"] += 1
            raise
        except InvalidPosition:
            self.counts["invalid"] += 1
            raise
        self.counts["new" if since is None else "complete"] += 1
        return position
