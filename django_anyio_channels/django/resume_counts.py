"""How often channels came back to a group, by what they got."""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import TypeVar

from ..core.exceptions import InvalidPosition, PositionLost

T = TypeVar("T")


class ResumeCounts:
    """Counts the results of `AnyioChannelLayer.group_resume`, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("new", "complete", "lost", "invalid"), 0)

    async def counted(self, resume: Awaitable[T], since: str | None) -> T:
        """Await it, and count its result."""
        result = "new" if since is None else "complete"
        try:
            return await resume
        except PositionLost:
            result = "lost"
            raise
        except InvalidPosition:
            result = "invalid"
            raise
        except BaseException:
            result = ""
            raise
        finally:
            if result:
                with self._lock:
                    self._counts[result] += 1

    def counts(self) -> dict[str, float]:
        """Return the numbers under their names in `AnyioChannelLayer.statistics`."""
        return {f"resumes_{result}": number for result, number in self._counts.items()}
