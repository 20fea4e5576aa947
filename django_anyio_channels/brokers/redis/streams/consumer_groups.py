"""Acknowledged delivery on the server: what is new, what is pending, and the Lua scripts that deliver and acknowledge.

New work is removed from a queue, or a consumer group's cursor moves over the history of a group; what was delivered and
not acknowledged is kept beside it, so that neither a trimmed history nor an expiry can take it away. Two keys hold it:
a sorted set, when each delivery is visible to other nodes again, and a hash, its message and number of deliveries.

Redis' own consumer groups (``XREADGROUP``, ``XAUTOCLAIM``) would not do it in fewer lines:

* A pending entry whose message was trimmed is lost. ``XADD`` and ``XTRIM ... ACKED`` (Redis 8.2) keep it, but then one
  entry that is never acknowledged, or one consumer group without consumers, keeps all that follows: a history would
  have no bound in messages, seconds or bytes. And neither Redis 6.2 to 8.0 nor any Valkey has it, so these two keys
  would stay beside it.
* Queues are lists, with a capacity, and an expiry of each message, which streams have not.
* A call whose reply is lost must bring the same deliveries again, not count them twice; entries that were trimmed
  before they were delivered must be reported. Both need a script around ``XREADGROUP``, as they do here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

import hiredis

from ....core.exceptions import ChannelLayerError
from ...common.acknowledgement import Delivery
from ...common.deliveries import Deliveries
from ...common.waiters import fail
from ..keys import companion_key, notify_channel
from ..readers import INFLIGHT_TTL_MS
from ..scripts import Script, is_noscript
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


class RedisWork(NamedTuple):
    """A queue, or a group as one consumer group sees it: a `WorkSource`."""

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

    @property
    def group(self) -> str:
        return self.name.decode()

    async def watch(self, session: Session, changed: Callable[[], None]) -> None:
        while True:
            reply = await session.subscriptions.watch(self.notify_channel, lambda message: changed())
            if not self._is_transient(session, reply):
                break
        session.raise_for_error(reply)

    def unwatch(self, session: Session) -> None:
        session.subscriptions.unwatch(self.notify_channel)

    async def deliver(self, session: Session, node: str, number: int, count: int, seconds: float) -> Deliveries | None:
        """Run streams_deliver.lua."""
        inflight = b"%b, in flight to %b" % (self.pending, node.encode())
        keys = [*self.keys, *self._pending_keys, inflight]
        timeout = max(1, round(seconds * 1000))
        args = self.position_ttl, node, number, count, timeout, timeout + _DAY_MS, INFLIGHT_TTL_MS
        reply = await self.script.run(session.executor(self.name), keys, *args)
        if self._is_transient(session, reply):
            return None
        lost, milliseconds, *delivered = session.raise_for_error(reply)
        deliveries = [Delivery(work_id, int(times), message) for work_id, times, message in delivered]
        return Deliveries(bool(lost), milliseconds / 1000, deliveries)

    async def release(self, session: Session, ids: list[bytes], *, undelivered: bool) -> None:
        channel = session.subscriptions.wire_name(self.notify_channel)
        executor = session.executor(self.name)
        args = int(undelivered), session.publish_command, channel
        session.raise_for_error(await _RELEASE.run(executor, self._pending_keys, *args, *ids))

    def acknowledge(self, session: Session, work_id: bytes) -> asyncio.Future[None]:
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acknowledge(session, work_id, acknowledged, by_hash=True)
        return acknowledged

    def _acknowledge(self, session: Session, work_id: bytes, acknowledged: asyncio.Future[None], by_hash: bool) -> None:
        encode = _ACKNOWLEDGE.evalsha if by_hash else _ACKNOWLEDGE.eval
        reply = session.executor(self.name).execute(encode(self._pending_keys, work_id))
        reply.add_done_callback(partial(self._confirm, session, work_id, acknowledged))

    def _confirm(
        self, session: Session, work_id: bytes, acknowledged: asyncio.Future[None], reply: asyncio.Future[Any]
    ) -> None:
        error = reply.exception()
        try:
            if error is not None:
                raise error
            if is_noscript(reply.result()):
                self._acknowledge(session, work_id, acknowledged, by_hash=False)
            else:
                session.raise_for_error(reply.result())
                acknowledged.set_result(None)
        except ChannelLayerError as refused:
            fail(acknowledged, refused)

    def _is_transient(self, session: Session, reply: Any) -> bool:
        return isinstance(reply, hiredis.ReplyError) and session.is_transient(reply, self.group)

    @property
    def _pending_keys(self) -> list[bytes]:
        return [self.pending, contents_key(self.pending)]


def contents_key(pending: bytes) -> bytes:
    """Return the hash of the messages of `RedisWork.pending`, and of how often they were delivered."""
    return pending + b", contents"


def queue_source(queue: bytes) -> RedisWork:
    """Return a queue as a source of work."""
    return RedisWork(queue, companion_key(queue, "pending"), notify_channel(queue), _DELIVER_FROM_QUEUE, (queue,))


def group_source(history: History, group: bytes, consumer_group: str) -> RedisWork:
    """Return what a consumer group sees of a group."""
    pending = companion_key(group, f"pending of {quote(consumer_group)}")
    keys = *history_keys(group), _cursor_key(group, consumer_group)
    return RedisWork(group, pending, pending, _DELIVER_FROM_GROUP, keys, history.position_ttl)


async def join(session: Session, history: History, group: bytes, consumer_group: str) -> None:
    """Have the consumer group begin with what is published from now on, if it has not begun yet."""
    keys = [*history_keys(group), _cursor_key(group, consumer_group)]
    session.raise_for_error(await _JOIN.run(session.executor(group), keys, history.position_ttl))


def _cursor_key(group: bytes, consumer_group: str) -> bytes:
    """Return the key of the position up to which a consumer group has taken."""
    return companion_key(group, f"cursor of {quote(consumer_group)}")
