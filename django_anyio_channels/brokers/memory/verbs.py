"""The verbs that are one call of the broker."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.capabilities import PresenceRecord, QueueLength
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer
from .broker import InMemoryBroker
from .inbox import Inbox
from .queues import not_connected


class BrokerVerbs(BaseChannelLayer):
    """Bindings, presence and the state of queues, for a layer that is connected."""

    broker: InMemoryBroker
    _inbox: Inbox | None

    async def queue_length(self, queue: str) -> QueueLength:
        self._connected()
        return QueueLength(self.broker.queue_length(queue), 0)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        self._connected()
        self.broker.bind(group, queue, capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        self._connected()
        self.broker.unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        self._connected()
        self.broker.purge(prefix)
        self.broker.presence.purge(prefix)

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        self._connected()
        self.broker.presence.put(records, ttl)

    async def read_presence(self, name: str) -> dict[str, bytes]:
        self._connected()
        return self.broker.presence.read(name)

    @property
    def queues_are_at_nodes(self) -> bool:
        """See `SupportsInspection`."""
        return False

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        self._connected()
        return self.broker.inspect_queues(prefix, limit)

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        self._connected()
        text = "memory:// carries messages within one process, so this command sees nothing of the others"
        cure = "Where several processes serve one site, name a broker that they share, such as redis://localhost:6379"
        return [Finding("warning", text, cure)]

    def _connected(self) -> Inbox:
        if self._inbox is None:
            raise not_connected()
        return self._inbox
