"""The records of presence, over any number of outages and brokers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from ..core.capabilities import PresenceRecord, require_presence
from ..core.events import Event
from .encryption import ChannelEncryption
from .sharding import Shards
from .supervisor import Supervisor


class PresenceStore:
    """The records of all brokers; `Channel.presence`. Each name is at the broker that has the group of that name."""

    def __init__(self, shards: Shards, encryption: ChannelEncryption | None) -> None:
        self._shards = shards
        self._encryption = encryption

    def require_supported(self) -> None:
        """Raise `NotSupported` if the layers keep no presence."""
        require_presence(self._shards.layers[0])

    async def put(self, records: Iterable[PresenceRecord], ttl: float) -> None:
        """`SupportsPresence.put_presence`; raises `ListenerClosed` as `Channel.publish` does."""
        by_supervisor: dict[Supervisor, list[PresenceRecord]] = {}
        for record in records:
            by_supervisor.setdefault(self._shards.of(record.name), []).append(self._encrypted(record, ttl))
        for supervisor, own in by_supervisor.items():
            await supervisor.retry(partial(require_presence(supervisor.layer).put_presence, own, ttl))

    async def read(self, name: str) -> dict[str, bytes]:
        """`SupportsPresence.read_presence`. A record that cannot be decrypted is counted, logged and left out."""
        supervisor = self._shards.of(name)
        layer = require_presence(supervisor.layer)
        records = await supervisor.retry(lambda: layer.read_presence(name))
        if self._encryption is None:
            return records
        decrypted = {
            key: self._encryption.decrypt(Event(_place(name, key), content), "presence")
            for key, content in records.items()
        }
        return {key: event.message for key, event in decrypted.items() if event is not None}

    def _encrypted(self, record: PresenceRecord, ttl: float) -> PresenceRecord:
        if self._encryption is None or not record.content:
            return record
        place = _place(record.name, record.key)
        return record._replace(content=self._encryption.for_record(place, record.content, ttl))


def _place(name: str, key: str) -> str:
    return f"{name} {key}"
