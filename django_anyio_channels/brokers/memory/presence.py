"""The records of presence in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic

from ...core.capabilities import PresenceRecord

_SWEEP_SECONDS = 60.0


class PresenceTable:
    """What the nodes of a process say of their members. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, tuple[float, bytes]]] = {}
        """The records of each name by their keys, each with its end."""
        self._next_sweep = 0.0

    def put(self, records: Iterable[PresenceRecord], ttl: float) -> None:
        now = monotonic()
        with self._lock:
            if now >= self._next_sweep:
                self._next_sweep = now + _SWEEP_SECONDS
                for name in list(self._records):
                    self._drop_expired(name, now)
            for name, key, content in records:
                if content:
                    self._records.setdefault(name, {})[key] = (now + ttl, content)
                elif name in self._records:
                    self._records[name].pop(key, None)
                    if not self._records[name]:
                        del self._records[name]

    def read(self, name: str) -> dict[str, bytes]:
        with self._lock:
            self._drop_expired(name, monotonic())
            return {key: content for key, (_, content) in self._records.get(name, {}).items()}

    def purge(self, prefix: str) -> None:
        with self._lock:
            for name in [name for name in self._records if name.startswith(prefix)]:
                del self._records[name]

    def _drop_expired(self, name: str, now: float) -> None:
        kept = {key: record for key, record in self._records.pop(name, {}).items() if record[0] > now}
        if kept:
            self._records[name] = kept
