"""What a node does with work until it is acknowledged: count the holders of its event, remember what is pending."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from ...core.events import DONE

Source = TypeVar("Source", bound=Hashable)


class Delivery(NamedTuple):
    """A message that the broker has delivered to this node."""

    work_id: bytes
    deliveries: int
    message: bytes


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


class PendingDeliveries(Generic[Source]):
    """What this node was delivered and has not acknowledged, while it is invisible to other nodes."""

    def __init__(self, redeliver_after: float) -> None:
        self._redeliver_after = redeliver_after
        self._until: dict[tuple[Source, bytes], float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, source: Source, work_id: bytes, now: float) -> None:
        # What is visible to others comes first, since all are invisible for the same time.
        while self._until and next(iter(self._until.values())) < now:
            del self._until[next(iter(self._until))]
        self._until.pop((source, work_id), None)
        self._until[source, work_id] = now + self._redeliver_after

    def discard(self, source: Source, work_id: bytes) -> None:
        self._until.pop((source, work_id), None)

    def pop_all(self) -> dict[Source, list[bytes]]:
        """Return the ids of what is pending, and forget them."""
        pending: dict[Source, list[bytes]] = {}
        for source, work_id in self._until:
            pending.setdefault(source, []).append(work_id)
        self._until.clear()
        return pending
