"""Acknowledged delivery on the server: what is new, what is pending, and the Lua scripts that deliver and acknowledge.

New work is removed from a queue, or a consumer group's cursor moves over the history of a group; what was delivered and
not acknowledged is kept beside it, so that neither a trimmed history nor an expiry can take it away. (``XREADGROUP``
forgets entries that are trimmed.) Two keys hold it: when each delivery is visible to other nodes again, in a sorted
set, and its message and number of deliveries, in a hash.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple
from urllib.parse import quote

from ..keys import companion_key, notify_channel
from ..queues import INFLIGHT_TTL_MS
from ..scripts import Script
from ..session import Session
from .history import History, history_keys

_DAY_MS = 24 * 3600 * 1000
"""For which work is kept that no node asks for, longer than it is invisible."""

_DELIVER_FROM_QUEUE = Script("now", "drop_foreign_type", "streams_new_from_queue", "streams_deliver")
_DELIVER_FROM_GROUP = Script(
    "streams_load_position",
    "streams_touch_position",
    "now",
    "drop_foreign_type",
    "streams_new_from_group",
    "streams_deliver",
)
_JOIN = Script("streams_load_position", "streams_touch_position", "streams_join")
_ACKNOWLEDGE = Script("streams_acknowledge")
_RELEASE = Script("streams_release")


class WorkSource(NamedTuple):
    """A queue, or a group as one consumer group sees it."""

    name: bytes
    pending: bytes
    """The sorted set of what was delivered, by the milliseconds at which it is visible again."""
    notify_channel: bytes
    """Where nodes are notified that there may be work."""
    script: Script
    keys: tuple[bytes, ...]
    """The keys that the script takes new work from."""
    position_ttl: int = 0
    """See `History.position_ttl`; 0 where work has no position."""

    def position(self, work_id: bytes) -> str | None:
        """Return the position of work in the history that it comes from."""
        return work_id.decode() if self.position_ttl else None

    async def deliver(self, session: Session, node: str, number: int, count: int, timeout: int) -> Any:
        """Run streams_deliver.lua; ``timeout`` is in milliseconds. The reply may be a `hiredis.ReplyError`."""
        inflight = b"%b, in flight to %b" % (self.pending, node.encode())
        keys = [*self.keys, self.pending, contents_key(self.pending), inflight]
        args = self.position_ttl, node, number, count, timeout, timeout + _DAY_MS, INFLIGHT_TTL_MS
        return await self.script.run(session.executor(self.name), keys, *args)

    async def release(self, session: Session, undelivered: bool, ids: list[bytes]) -> Any:
        """Make work visible to other nodes at once. The reply may be a `hiredis.ReplyError`."""
        channel = session.subscriptions.wire_name(self.notify_channel)
        executor = session.executor(self.name)
        return await _RELEASE.run(
            executor, self._pending_keys, int(undelivered), session.publish_command, channel, *ids
        )

    def acknowledge(self, session: Session, work_id: bytes, by_hash: bool) -> asyncio.Future[Any]:
        """End a delivery; the future may give a `hiredis.ReplyError`. Raises `ListenerClosed`.

        By its hash the server may not know the script: see `is_noscript`.
        """
        encode = _ACKNOWLEDGE.evalsha if by_hash else _ACKNOWLEDGE.eval
        return session.executor(self.name).execute(encode(self._pending_keys, work_id))

    @property
    def _pending_keys(self) -> list[bytes]:
        return [self.pending, contents_key(self.pending)]


def contents_key(pending: bytes) -> bytes:
    """Return the hash of the messages of `WorkSource.pending`, and of how often they were delivered."""
    return pending + b", contents"


def queue_source(queue: bytes) -> WorkSource:
    """Return a queue as a source of work."""
    return WorkSource(queue, companion_key(queue, "pending"), notify_channel(queue), _DELIVER_FROM_QUEUE, (queue,))


def group_source(history: History, group: bytes, consumer_group: str) -> WorkSource:
    """Return what a consumer group sees of a group."""
    pending = companion_key(group, f"pending of {quote(consumer_group)}")
    keys = *history_keys(group), _cursor_key(group, consumer_group)
    return WorkSource(group, pending, pending, _DELIVER_FROM_GROUP, keys, history.position_ttl)


async def join(session: Session, history: History, group: bytes, consumer_group: str) -> None:
    """Have the consumer group begin with what is published from now on, if it has not begun yet."""
    keys = [*history_keys(group), _cursor_key(group, consumer_group)]
    session.raise_for_error(await _JOIN.run(session.executor(group), keys, history.position_ttl))


def _cursor_key(group: bytes, consumer_group: str) -> bytes:
    """Return the key of the position up to which a consumer group has taken."""
    return companion_key(group, f"cursor of {quote(consumer_group)}")
