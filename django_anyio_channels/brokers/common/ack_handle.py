"""An acknowledgement that waits for every holder of its event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...core.events import DONE


class CountedAckHandle:
    """An `AckHandle` that calls ``acknowledge`` when all holders of its event have released it."""

    def __init__(self, acknowledge: Callable[[], Awaitable[None]]) -> None:
        self._holders = 1
        self._acknowledge = acknowledge

    def retain(self) -> None:
        self._holders += 1

    def release(self) -> Awaitable[None]:
        self._holders -= 1
        return DONE if self._holders else self._acknowledge()
