"""One queue as a node knows it: its readers, what came for them, and the state of its call."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import hiredis

from ...core.exceptions import ListenerClosed
from ...core.stats import RateLimitedLogger
from ..common.waiters import WaiterQueue
from .keys import delivery_channel, inflight_key, notify_channel, waiting_key
from .prefetch import LEASE_SECONDS, Prefetched
from .subscriptions import SubscribedSession

_MAX_MESSAGES = 100
INFLIGHT_TTL_MS = 300_000
_PREFETCHED_UNSUBSCRIBED = 3
"""How many a node would prefetch before it subscribes to the queue's channels, which it must for that."""


@lru_cache(maxsize=1024)
def queue_keys(queue: bytes) -> list[bytes]:
    """Return the keys of a queue that each of its scripts begins with."""
    return [queue, waiting_key(queue), inflight_key(queue)]


def publishing_arguments(session: SubscribedSession, queue: bytes) -> tuple[str, bytes, bytes]:
    """Return how and where the scripts of a queue notify nodes and hand over messages."""
    name = session.subscriptions.wire_name
    return session.publish_command, name(notify_channel(queue)), name(delivery_channel(queue))


class Queue:
    """One queue that tasks of this node read from."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.ready: deque[bytes] = deque()
        """Messages that came for readers and are not yet with one."""
        self.waiters: WaiterQueue[bytes] = WaiterQueue(self.ready)
        self.prefetched = Prefetched(name)
        self.number = 0
        self.answered = True
        """Call `number` has brought its messages, or none and does not wait; else the next session repeats it."""
        self.calling = False
        """The server has not yet replied to that call. If it has, and not answered, the call waits there."""
        self.called: float = 0.0
        self.delivered: float = 0.0
        """When messages came last."""
        self.largest = 1
        """Bytes of the largest one of those."""
        self.requeueing: list[bytes] = []
        """Messages that are being returned, under `requeue_number`, in each session until the server confirms it."""
        self.requeue_number = 0
        self.subscribed = False
        """The channels of the queue are subscribed to in this session."""
        self.subscribing = False
        self.notified = False
        """A notification came after the last call was sent."""
        self.wanted = False
        """Since then another node has waited for what this one prefetched, maybe with that very call."""
        self.used: float = 0.0
        """When a reader came last."""
        self.idle_timer: asyncio.TimerHandle | None = None
        self.idle = False
        """It has not been used since the last `Queues.prune`."""

    @property
    def unused(self) -> bool:
        return self.answered and not (self.waiters or self.is_holding or self.requeueing or self.subscribing)

    @property
    def is_holding(self) -> bool:
        """Whether there are messages that no reader has."""
        return bool(self.ready or self.prefetched.messages)

    @property
    def unserved(self) -> int:
        """How many readers wait for whom there is nothing."""
        return len(self.waiters) - len(self.ready)

    def should_subscribe(self, *, quick: bool) -> bool:
        """Adapt how much is prefetched; return whether the node must subscribe to the queue's channels before.

        So it is notified when another node waits for what it has prefetched.
        """
        self.prefetched.adapt(self.largest, quick=quick)
        return self.prefetched.limit > _PREFETCHED_UNSUBSCRIBED and not self.subscribed

    def begin_prefetched(self, session: SubscribedSession, log: RateLimitedLogger) -> None:
        """Give readers what is prefetched in the next turn of the event loop: by then the server has been notified."""
        loop = asyncio.get_running_loop()

        def begun(reply: asyncio.Future[Any]) -> None:
            if reply.exception() is None and isinstance(reply.result(), hiredis.ReplyError):
                error = session.translate_error(reply.result())
                log.write(logging.ERROR, "A message may be delivered to a second reader: %s", error)

        self.prefetched.drop_late(loop.time())
        while self.prefetched.messages and self.unserved > 0:
            command, message = self.prefetched.begin()
            self.ready.append(message)
            session.executor(self.name).execute(command).add_done_callback(begun)
            loop.call_soon(self.waiters.dispatch)

    def end_session(self, error: ListenerClosed, numbers: Iterator[int]) -> None:
        """Fail the readers. The next session returns what was prefetched, but for what readers have got.

        It tells the server again which messages those are, since what was on its way there is lost.
        """
        self.waiters.fail_all(error)
        self.prefetched.messages.clear()
        if self.answered and self.prefetched.call:
            self.number, self.answered = next(numbers), False

    def unsubscribe(self, session: SubscribedSession | None, node: str) -> None:
        """Unsubscribe from the channels of the queue, if it is subscribed to them."""
        if self.subscribed and session is not None:
            session.subscriptions.unwatch(notify_channel(self.name))
            session.subscriptions.unwatch(delivery_channel(self.name, node))

    def begin_call(self, session: SubscribedSession, node: str) -> tuple[list[bytes | str | int], bool]:
        """Begin call `number`. Return the arguments of take.lua, and whether it waits for the next message."""
        self.calling = True
        self.notified = self.wanted = False
        self.called = asyncio.get_running_loop().time()
        prefetched = self.prefetched
        prefetched.messages.clear()  # the call returns them to the queue
        wanted = 0 if self.requeueing else max(0, min(self.unserved, _MAX_MESSAGES))
        waits = bool(wanted and self.subscribed)
        more, milliseconds = prefetched.limit if waits else 0, round(LEASE_SECONDS * 1000)
        publishing = publishing_arguments(session, self.name)
        arguments: list[bytes | str | int] = [node, self.number, wanted, INFLIGHT_TTL_MS, int(waits)]
        return [*arguments, more, milliseconds, prefetched.call, prefetched.begun, *publishing], waits

    def receive(self, node: str, reply: list[Any]) -> None:
        """Take in messages; the number before them, if there is one, says how many are not prefetched."""
        self.answered = True
        self.calling = False
        self.delivered = asyncio.get_running_loop().time()
        if isinstance(reply[0], int):
            direct = 1 + reply[0]
            self.prefetched.add(node, self.number, self.called, reply[direct:])
            reply = reply[1:direct]
        self.largest = max(map(len, reply), default=1)
        self.ready.extend(reply)
        self.waiters.dispatch()
