"""What a `Channel` can say about itself and about its brokers, for monitoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ..core.capabilities import SupportsHistoryInspection, SupportsInspection
from ..core.events import Event
from ..core.exceptions import NotSupported
from ..core.inspection import QueueState
from .sharding import Shards


class Inspection:
    """The questions about one node and all of its brokers; `Channel.inspection`."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.received = 0
        """The events that came while they were counted, see `count_received`."""

    def members(self) -> Iterator[tuple[str, int]]:
        """Return each group that this node subscribes to, and how many sinks it has."""
        for supervisor in self._shards.all():
            yield from supervisor.subscriptions.members()

    def count_received(self, counted: bool) -> None:
        """Begin or stop counting events. Counting costs a call for each event."""
        for supervisor in self._shards.all():
            supervisor.wrap_handler(self._count if counted else None)

    def _count(self, deliver: Callable[[Event[bytes]], None]) -> Callable[[Event[bytes]], None]:
        def count_and_deliver(event: Event[bytes]) -> None:
            self.received += 1
            deliver(event)

        return count_and_deliver

    @property
    def queues_are_at_nodes(self) -> bool:
        """`SupportsInspection.queues_are_at_nodes`; False for a layer that does not support inspection."""
        return any(isinstance(each, SupportsInspection) and each.queues_are_at_nodes for each in self._shards.layers)

    async def queues(self, prefix: str, limit: int) -> list[QueueState]:
        """`SupportsInspection.inspect_queues`, at every broker; ``limit`` is for each. Raises `NotSupported`."""
        found: list[QueueState] = []
        for supervisor in self._shards.all():
            layer = supervisor.layer
            if not isinstance(layer, SupportsInspection):
                raise NotSupported(f"{type(layer).__name__} does not say what its queues hold")
            found += await supervisor.retry(partial(layer.inspect_queues, prefix, limit))
        return found

    async def histories(self, prefix: str) -> dict[str, int]:
        """`SupportsHistoryInspection.count_history`, at every broker. Raises `NotSupported`."""
        found: dict[str, int] = {}
        for supervisor in self._shards.all():
            layer = _with_history(supervisor.layer)
            found |= await supervisor.retry(partial(layer.count_history, prefix))
        return found

    async def remove_from_history(self, group: str, positions: list[str]) -> int:
        """`SupportsHistoryInspection.remove_from_history`. Raises `NotSupported`."""
        supervisor = self._shards.of(group)
        layer = _with_history(supervisor.layer)
        return await supervisor.retry(partial(layer.remove_from_history, group, positions))


def _with_history(layer: object) -> SupportsHistoryInspection:
    if not isinstance(layer, SupportsHistoryInspection):
        raise NotSupported(
            f"{type(layer).__name__} cannot list dead letters; use a layer that can: redis+streams://, or "
            f"postgresql:// with a history_length"
        )
    return layer
