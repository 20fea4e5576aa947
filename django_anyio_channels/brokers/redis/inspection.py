"""What the queues on a server or a cluster hold, found by ``SCAN``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ...core.inspection import QueueState
from .keys import base_key, inflight_key, notify_channel
from .scripts import INSPECT
from .session import Session
from .subscriptions import count_subscribers, number_of


async def find_queues(session: Session, prefix: bytes) -> set[bytes]:
    """Return the queues that hold messages, or that nodes wait for."""
    names = {key for key in await session.keys(prefix, "list") if key.startswith(prefix)}
    return names | {base_key(key) for key in await session.keys(prefix, "hash") if inflight_key(base_key(key)) == key}


async def inspect_queues(session: Session, names: Iterable[bytes]) -> list[QueueState]:
    """Return the states of these queues, in their order."""
    return list(await asyncio.gather(*(_inspect(session, name) for name in names)))


async def _inspect(session: Session, name: bytes) -> QueueState:
    length, milliseconds = session.raise_for_error(await INSPECT.run(session.executor(name), [name]))
    readers = number_of(await count_subscribers(session, notify_channel(name)))
    expires_in = None if milliseconds < 0 else milliseconds / 1000
    return QueueState(name.decode(errors="replace"), length, expires_in, readers=readers)
