"""The results of calls with idempotency keys."""

from __future__ import annotations

import threading
from time import monotonic

from ...core.events import PublishResult


class IdempotencyKeys:
    """What was returned for the first call with each key of a group or queue, until its time is over."""

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        """Held from `get` to `add`. It is taken before the broker's own."""
        self._results: dict[tuple[str, str], tuple[float, PublishResult]] = {}

    def get(self, key: tuple[str, str]) -> PublishResult | None:
        """Return the result of a key, or None."""
        now = monotonic()
        while self._results and next(iter(self._results.values()))[0] <= now:
            del self._results[next(iter(self._results))]
        ends, result = self._results.get(key, (now, None))
        return result if ends > now else None

    def add(self, key: tuple[str, str], result: PublishResult, seconds: float) -> None:
        self._results.pop(key, None)
        self._results[key] = monotonic() + seconds, result

    def purge(self, prefix: str) -> None:
        """Forget the keys of names that begin with a prefix."""
        with self.lock:
            self._results = {key: each for key, each in self._results.items() if not key[0].startswith(prefix)}
