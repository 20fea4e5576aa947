"""Pending jobs, how long the histories on a server or a cluster are, and their events removed one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ....core.exceptions import InvalidPosition
from ....core.inspection import QueueState
from ...common.entries import entry_id, read_position
from ..inspection import find_queues, inspect_queues
from ..keys import base_key, companion_key
from ..session import Session
from .consumer_groups import queue_source
from .history import history_keys


async def inspect_jobs(session: Session, prefix: str, limit: int) -> list[QueueState]:
    """See `SupportsInspection`."""
    start = prefix.encode()
    keys = await session.keys(start, "zset")
    pending = {base_key(key) for key in keys if queue_source(base_key(key)).pending == key}
    names = sorted(await find_queues(session, start) | pending)[:limit]
    states = await inspect_queues(session, names)
    counts = await asyncio.gather(*(session.execute(name, "ZCARD", queue_source(name).pending) for name in names))
    return [replace(state, pending=count) for state, count in zip(states, counts, strict=True)]


async def count_history(session: Session, prefix: str) -> dict[str, int]:
    """See `SupportsHistoryInspection`."""
    keys = await session.keys(prefix.encode(), "stream")
    groups = [base_key(key) for key in keys if companion_key(base_key(key), "history") == key]
    lengths = await asyncio.gather(*(session.execute(group, "XLEN", history_keys(group)[1]) for group in groups))
    return {group.decode(errors="replace"): length for group, length in zip(groups, lengths, strict=True)}


async def remove_from_history(session: Session, group: str, positions: Sequence[str]) -> int:
    """See `SupportsHistoryInspection`."""
    name = group.encode()
    ids = []
    for position in positions:
        with suppress(InvalidPosition):  # it has never been one, so nothing is there to remove
            ids.append(entry_id(read_position(position)))
    return int(await session.execute(name, "XDEL", history_keys(name)[1], *ids)) if ids else 0
