"""What the queues on a server or a cluster hold, found by ``SCAN``."""

from __future__ import annotations

import asyncio

from ...core.inspection import QueueState
from .keys import base_key, companion_key, inflight_key, notify_channel
from .scripts import INSPECT
from .session import Session
from .subscriptions import count_subscribers, number_of


async def inspect_queues(session: Session, prefix: str, limit: int) -> list[QueueState]:
    """See `SupportsInspection`."""
    start = prefix.encode()
    names = {key for key in await session.keys(start, "list") if key.startswith(start)}
    # Of an empty queue there may be what nodes wait for, and what they have taken.
    for type_, companion in (("hash", inflight_key), ("zset", _pending_key)):
        names |= {base_key(key) for key in await session.keys(start, type_) if companion(base_key(key)) == key}
    return list(await asyncio.gather(*(_inspect(session, name) for name in sorted(names)[:limit])))


async def _inspect(session: Session, name: bytes) -> QueueState:
    reply = await INSPECT.run(session.executor(name), [name, _pending_key(name)])
    length, milliseconds, pending = session.raise_for_error(reply)
    readers = number_of(await count_subscribers(session, notify_channel(name)))
    expires_in = None if milliseconds < 0 else milliseconds / 1000
    return QueueState(name.decode(errors="replace"), length, expires_in, pending, readers)


def _pending_key(queue: bytes) -> bytes:
    return companion_key(queue, "pending")
