"""The queues that are bound to groups. The broker's lock guards them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from ...core.events import BoundQueue


@dataclass(slots=True)
class _Binding:
    capacity: int
    expiry: float
    ends: float


class Bindings:
    """By group and queue; a binding ends unless it is renewed."""

    def __init__(self) -> None:
        self.by_group: dict[str, dict[str, _Binding]] = {}

    def bind(self, group: str, queue: str, capacity: int, expiry: float, lifetime: float) -> None:
        self.by_group.setdefault(group, {})[queue] = _Binding(capacity, expiry, monotonic() + lifetime)

    def unbind(self, group: str, queue: str) -> None:
        self.by_group.get(group, {}).pop(queue, None)
        self._prune()

    def of(self, group: str) -> list[BoundQueue]:
        """Return the queues that are bound to a group now."""
        now = monotonic()
        bindings = self.by_group.get(group, {})
        for queue in [queue for queue, binding in bindings.items() if binding.ends <= now]:
            del bindings[queue]
        if not bindings:
            self.by_group.pop(group, None)
        return [BoundQueue(queue, binding.capacity, binding.expiry) for queue, binding in bindings.items()]

    def purge(self, prefix: str) -> None:
        """Unbind the queues whose names begin with a prefix."""
        self._keep(lambda queue, binding: not queue.startswith(prefix))

    def drop_ended(self, now: float) -> None:
        self._keep(lambda queue, binding: binding.ends > now)

    def _keep(self, wanted: Callable[[str, _Binding], bool]) -> None:
        for bindings in self.by_group.values():
            for queue in [queue for queue, binding in bindings.items() if not wanted(queue, binding)]:
                del bindings[queue]
        self._prune()

    def _prune(self) -> None:
        self.by_group = {group: bindings for group, bindings in self.by_group.items() if bindings}
