"""What the queues and the histories in the tables hold, and events of a history removed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ...core.exceptions import InvalidPosition
from ...core.inspection import QueueState
from ..common.entries import epoch_of, read_position
from .history import number_of
from .session import Session
from .statements import HISTORY_COUNT, HISTORY_REMOVE, INSPECT_QUEUES, JOB_INSPECT, text_array


async def inspect_queues(session: Session, prefix: str, limit: int) -> list[QueueState]:
    """See `SupportsInspection`. Which nodes ``LISTEN`` for a queue, PostgreSQL does not say."""
    parameters = prefix.encode(), limit
    states = {
        name: QueueState(name.decode(errors="replace"), count, left)
        for name, count, left in await session.queues.tables.run_if_any(INSPECT_QUEUES, *parameters)
    }
    for name, count, left, pending in await session.jobs.tables.run_if_any(JOB_INSPECT, *parameters):
        waiting = states.get(name)
        if waiting is not None:
            count += waiting.length
            left = min(filter(None, (left, waiting.expires_in)), default=None)
        states[name] = QueueState(name.decode(errors="replace"), count, left, pending)
    return [states[name] for name in sorted(states)[:limit]]


async def count_history(session: Session, prefix: str) -> dict[str, int]:
    """See `SupportsHistoryInspection`."""
    rows = await session.histories.tables.run_if_any(HISTORY_COUNT, prefix.encode())
    return {topic.decode(errors="replace"): count for topic, count in rows}


async def remove_from_history(session: Session, group: str, positions: Sequence[str]) -> int:
    """See `SupportsHistoryInspection`."""
    known = []
    for position in positions:
        with suppress(InvalidPosition):  # it has never been one, so nothing is there to remove
            known.append(read_position(position))
    epochs, numbers = [epoch_of(each).decode() for each in known], text_array(map(number_of, known))
    rows = await session.histories.tables.run_if_any(HISTORY_REMOVE, group.encode(), epochs, numbers)
    return sum(count for (count,) in rows)
