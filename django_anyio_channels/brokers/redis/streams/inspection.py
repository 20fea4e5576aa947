"""How long the histories on a server or a cluster are, and their events removed one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..keys import base_key, companion_key
from ..session import Session
from .entries import entry_id, is_position
from .history import history_keys


async def count_history(session: Session, prefix: str) -> dict[str, int]:
    """See `SupportsHistoryInspection`."""
    keys = await session.keys(prefix.encode(), "stream")
    groups = [base_key(key) for key in keys if companion_key(base_key(key), "history") == key]
    lengths = await asyncio.gather(*(session.execute(group, "XLEN", history_keys(group)[1]) for group in groups))
    return {group.decode(errors="replace"): length for group, length in zip(groups, lengths, strict=True)}


async def remove_from_history(session: Session, group: str, positions: Sequence[str]) -> int:
    """See `SupportsHistoryInspection`."""
    name = group.encode()
    ids = [entry_id(position.encode()) for position in positions if is_position(position)]
    return int(await session.execute(name, "XDEL", history_keys(name)[1], *ids)) if ids else 0
