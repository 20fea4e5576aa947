"""The verbs that are one call of the session."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from ...core.capabilities import PresenceRecord, QueueLength
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer
from .doctor import diagnose
from .history import Limits
from .inspection import count_history, inspect_queues, remove_from_history
from .queues import Message
from .session import Session
from .tables import HISTORIES, JOBS, QUEUES


class SessionVerbs(BaseChannelLayer):
    """Queues, presence and the state of both, for a layer that is connected."""

    _limits: Limits
    _is_acknowledged: Callable[[str], bool] | None
    """None as long as no queue is known to be acknowledged."""
    consumer_group: str | None

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        session = self._require_session()
        acknowledged = self._is_acknowledged is not None and self._is_acknowledged(queue)
        queues = session.jobs if acknowledged else session.queues
        await queues.put(Message(queue.encode(), message, capacity, expiry))

    async def put_once(
        self, queue: str, message: bytes, *, capacity: int, expiry: float, key: str, seconds: float
    ) -> None:
        session, entry = self._require_session(), Message(queue.encode(), message, capacity, expiry)
        await session.keys.put(entry, key, seconds, acknowledged=self._acknowledges(queue))

    async def take(self, queue: str) -> bytes:
        return await self._require_session().queues.take(queue.encode())

    async def queue_length(self, queue: str) -> QueueLength:
        session = self._require_session()
        if self._acknowledges(queue) or session.jobs.tables.found is not None:
            return await session.jobs.length(queue.encode())
        return QueueLength(await session.queues.length(queue.encode()), 0)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._require_session().queues.bind(group.encode(), queue.encode(), capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        await self._require_session().queues.unbind(group.encode(), queue.encode())

    async def purge(self, prefix: str) -> None:
        session, start = self._require_session(), prefix.encode()
        await session.queues.purge(start)
        if self._limits.length:
            await session.histories.purge(start)
        await session.jobs.purge(start, create=self._is_acknowledged is not None)
        await session.keys.purge(start)
        await session.presence.purge(start)

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        await self._require_session().presence.put(records, ttl)

    async def read_presence(self, name: str) -> dict[str, bytes]:
        return await self._require_session().presence.read(name.encode())

    @property
    def queues_are_at_nodes(self) -> bool:
        """See `SupportsInspection`."""
        return False

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        return await inspect_queues(self._require_session(), prefix, limit)

    async def count_history(self, prefix: str) -> dict[str, int]:
        """See `SupportsHistoryInspection`. Raises `NotSupported` without a history."""
        return await count_history(self._require_histories(), prefix)

    async def remove_from_history(self, group: str, positions: Sequence[str]) -> int:
        """See `SupportsHistoryInspection`."""
        return await remove_from_history(self._require_histories(), group, positions)

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        if self._is_acknowledged is not None or self.consumer_group is not None:
            needed = JOBS
        else:
            needed = HISTORIES if self._limits.length else QUEUES
        return await diagnose(self._require_session(), needed)

    def _acknowledges(self, queue: str) -> bool:
        return self._is_acknowledged is not None and self._is_acknowledged(queue)

    @abstractmethod
    def _require_histories(self) -> Session:
        """Return the session of a layer with histories. Raises `NotSupported` for one without."""

    @abstractmethod
    def _require_session(self) -> Session:
        """Return the session. Raises `ListenerClosed` unless it is open."""
