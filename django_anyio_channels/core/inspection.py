"""What a broker can say about its queues, and what is to be changed about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "unknown", "warning", "error"]
"""``unknown``: the broker does not say, or this user may not ask."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue at one moment."""

    name: str
    length: int
    """How many messages wait for their first reader."""
    expires_in: float | None = None
    """Seconds until the oldest of them expires; None if none waits."""
    pending: int = 0
    """How many messages were delivered and are not acknowledged."""
    readers: int | None = None
    """How many tasks or nodes wait for its next message; None where the broker does not know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of a broker to the question whether it is set up well."""

    level: Level
    text: str
    """One sentence, without a full stop and without secrets."""
    cure: str = ""
    """What to change, if anything."""
