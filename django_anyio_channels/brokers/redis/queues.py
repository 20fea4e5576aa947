"""Readers of normal channels: Redis lists, from which a waiting node is pushed the next message by ``PUBLISH``."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import count
from typing import Any
from uuid import uuid4

import hiredis

from ...core.exceptions import ListenerClosed
from ...core.stats import RateLimitedLogger
from ..common.waiters import WaiterQueue
from .keys import delivery_channel, inflight_key, notify_channel, released_key, waiting_key
from .scripts import EXPIRY_PREFIX, RELEASE, TAKE, Script, is_noscript
from .subscriptions import SubscribedSession

_MAX_MESSAGES = 100
REQUEUE_DELAY = 0.02
"""Seconds for which a message without a reader here is kept for a reader that comes back."""

_CLOSE_SECONDS = 1.0
INFLIGHT_TTL_MS = 300_000
_REPEAT_SECONDS = 100.0
"""After which a waiting call is repeated, before the server forgets it after `INFLIGHT_TTL_MS`."""


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
        self.prefetched: deque[bytes] = deque()
        """Messages that are here and not yet with a reader."""
        self.waiters: WaiterQueue[bytes] = WaiterQueue(self.prefetched)
        self.number = 0
        self.answered = True
        """Call `number` has brought its messages, or none and does not wait; else the next session repeats it."""
        self.calling = False
        """The server has not yet replied to that call. If it has, and not answered, the call waits there."""
        self.called: float = 0.0
        self.requeueing: list[bytes] = []
        """Messages that are being returned, under `requeue_number`, in each session until the server confirms it."""
        self.requeue_number = 0
        self.subscribed = False
        """The channels of the queue are subscribed to in this session."""
        self.subscribing = False
        self.notified = False
        """A notification came after the last call was sent."""
        self.used: float = 0.0
        """When a reader came last."""
        self.idle_timer: asyncio.TimerHandle | None = None
        self.idle = False
        """It has not been used since the last `Queues.prune`."""

    @property
    def unused(self) -> bool:
        return self.answered and not (self.waiters or self.prefetched or self.requeueing or self.subscribing)


class Queues:
    """The readers of a layer, over all its sessions.

    A reader asks at once. If there is nothing, its call waits on the server, which pushes it the next message. No
    more is taken than there are readers. What came for a reader that has gone waits a moment for the next one, which
    may be the same that polls, and then returns to the head of the queue.

    Calls have sequence numbers. One whose reply was lost with its connection is repeated in the next session.
    """

    def __init__(self) -> None:
        self._node = uuid4().hex
        self._queues: dict[bytes, Queue] = {}
        # One for all: the server still knows the last numbers of a queue that was forgotten here.
        self._numbers = count(1)
        self._session: SubscribedSession | None = None
        self._calls: set[asyncio.Future[Any]] = set()
        """Those that the server has not replied to."""
        self._log = RateLimitedLogger()

    async def take(self, name: str) -> bytes:
        """Wait for a message."""
        key = name.encode()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.used = asyncio.get_running_loop().time()
        queue.idle = False
        if queue.prefetched:
            return queue.prefetched.popleft()[EXPIRY_PREFIX:]
        waiter = queue.waiters.join()
        self._take(queue)
        try:
            message = await queue.waiters.wait(waiter)
        except BaseException:
            self._requeue_later(queue)
            raise
        return message[EXPIRY_PREFIX:]

    # ---- sessions -----------------------------------------------------------------------------------------------

    def start(self, session: SubscribedSession) -> None:
        """Begin a session; the calls that the last one left unanswered are repeated."""
        self._session = session
        for queue in self._queues.values():
            queue.subscribed = queue.subscribing = queue.notified = False
            if queue.requeueing:
                self._release(queue, session)
            if not queue.answered:
                self._call(queue, session)
            self._requeue_later(queue)

    def end(self, error: ListenerClosed) -> None:
        """The session has ended."""
        self._session = None
        for queue in self._queues.values():
            queue.waiters.fail_all(error)

    async def close_gracefully(self, error: ListenerClosed) -> None:
        """End the session; what is under way to readers returns to its queue, if it can within a second."""
        session = self._session
        for queue in self._queues.values():
            queue.waiters.fail_all(error)
        # Let readers that were cancelled with a message put it back.
        await asyncio.sleep(0)
        for queue in self._queues.values():
            if not queue.answered and session is self._session and session is not None:
                self._call(queue, session)
        await self._all_replied()
        for queue in self._queues.values():
            if queue.prefetched and not queue.requeueing and session is self._session and session is not None:
                self._requeue(queue, session)
        await self._all_replied()
        self.end(error)

    async def _all_replied(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls, timeout=_CLOSE_SECONDS)

    def prune(self) -> None:
        """Forget queues that were not used since the last call, and repeat calls that have waited for long."""
        session, now = self._session, asyncio.get_running_loop().time()
        for queue in list(self._queues.values()):
            waits = not queue.answered and not queue.calling
            if session is not None and waits and now - queue.called > _REPEAT_SECONDS:
                self._call(queue, session)
            if queue.unused and queue.idle:
                del self._queues[queue.name]
                if queue.subscribed and session is not None:
                    session.subscriptions.unwatch(notify_channel(queue.name))
                    session.subscriptions.unwatch(delivery_channel(queue.name, self._node))
            queue.idle = queue.unused

    def _run(
        self,
        queue: Queue,
        session: SubscribedSession,
        script: Script,
        keys: list[bytes],
        args: Sequence[bytes | str | int],
        replied: Callable[[Any], None],
    ) -> None:
        def execute(command: bytes) -> None:
            reply = session.executor(queue.name).execute(command)
            self._calls.add(reply)
            reply.add_done_callback(received)

        def received(reply: asyncio.Future[Any]) -> None:
            self._calls.discard(reply)
            if session is not self._session or reply.exception() is not None:
                return  # the session has ended: `end` has failed the waiters
            if is_noscript(reply.result()):
                execute(script.eval(keys, *args))
            else:
                replied(reply.result())

        execute(script.evalsha(keys, *args))

    # ---- taking -------------------------------------------------------------------------------------------------

    def _take(self, queue: Queue) -> None:
        session = self._session
        # What is being returned comes first: the server may not have it yet, if it has to be sent the script again.
        if session is None or not queue.answered or queue.subscribing or queue.requeueing:
            return
        if queue.waiters:
            queue.number = next(self._numbers)
            queue.answered = False
            self._call(queue, session)

    def _call(self, queue: Queue, session: SubscribedSession) -> None:
        queue.calling = True
        queue.notified = False
        queue.called = asyncio.get_running_loop().time()
        wanted = min(len(queue.waiters), _MAX_MESSAGES)
        waits = bool(wanted and queue.subscribed)
        args = self._node, queue.number, wanted, INFLIGHT_TTL_MS, int(waits)
        replied = partial(self._taken, queue, session, queue.number, waits)
        self._run(queue, session, TAKE, queue_keys(queue.name), args, replied)

    def _taken(self, queue: Queue, session: SubscribedSession, number: int, waits: bool, reply: Any) -> None:
        if number != queue.number or queue.answered:
            return  # a push was quicker
        queue.calling = False
        if isinstance(reply, hiredis.ReplyError):
            if session.is_transient(reply, queue.name.decode()):
                self._call(queue, session)
                return
            queue.answered = True
            queue.waiters.fail_all(session.translate_error(reply))
        elif reply:
            self._deliver(queue, reply)
        elif queue.notified and queue.waiters:
            self._call(queue, session)
        elif waits:
            self._requeue_later(queue)
        else:
            queue.answered = True
            if queue.waiters and not queue.subscribed:
                self._subscribe(queue, session)
            self._take(queue)

    def _deliver(self, queue: Queue, messages: list[bytes]) -> None:
        queue.answered = True
        queue.calling = False
        queue.prefetched.extend(messages)
        queue.waiters.dispatch()
        self._take(queue)
        self._requeue_later(queue)

    # ---- pushes -------------------------------------------------------------------------------------------------

    def _subscribe(self, queue: Queue, session: SubscribedSession) -> None:
        queue.subscribing = True
        watch = session.subscriptions.watch
        replies = asyncio.gather(
            watch(notify_channel(queue.name), partial(self._on_notification, queue)),
            watch(delivery_channel(queue.name, self._node), partial(self._on_delivery, queue)),
        )
        replies.add_done_callback(partial(self._subscribed, queue, session))

    def _subscribed(self, queue: Queue, session: SubscribedSession, replies: asyncio.Future[list[Any]]) -> None:
        if replies.exception() is not None or session is not self._session:
            return
        queue.subscribing = False
        for reply in replies.result():
            if isinstance(reply, hiredis.ReplyError):
                if session.is_transient(reply, queue.name.decode()):
                    self._subscribe(queue, session)
                else:
                    queue.waiters.fail_all(session.translate_error(reply))
                return
        queue.subscribed = True
        # Something may have come between the empty reply and the subscription.
        self._take(queue)

    def _on_notification(self, queue: Queue, message: bytes) -> None:
        queue.notified = True
        if self._session is not None and queue.waiters and not queue.answered and not queue.calling:
            self._call(queue, self._session)

    def _on_delivery(self, queue: Queue, push: bytes) -> None:
        number, _, message = push.partition(b" ")
        if not queue.answered and number == b"%d" % queue.number and len(message) >= EXPIRY_PREFIX:
            self._deliver(queue, [message])

    # ---- requeueing ---------------------------------------------------------------------------------------------

    def _requeue_later(self, queue: Queue) -> None:
        if queue.idle_timer is None and not queue.waiters and (queue.prefetched or not queue.answered):
            queue.idle_timer = asyncio.get_running_loop().call_later(REQUEUE_DELAY, self._requeue_if_idle, queue)

    def _requeue_if_idle(self, queue: Queue) -> None:
        """If no reader came back: return what was prefetched, and end the call that waits."""
        queue.idle_timer = None
        session = self._session
        if session is None or queue.waiters or (queue.answered and not queue.prefetched):
            return
        recently = asyncio.get_running_loop().time() - queue.used < REQUEUE_DELAY
        if recently or queue.calling or queue.requeueing:
            self._requeue_later(queue)
        elif not queue.answered:
            self._call(queue, session)
        else:
            self._requeue(queue, session)

    def _requeue(self, queue: Queue, session: SubscribedSession) -> None:
        queue.requeueing = list(queue.prefetched)
        queue.prefetched.clear()
        queue.requeue_number = next(self._numbers)
        self._release(queue, session)

    def _release(self, queue: Queue, session: SubscribedSession) -> None:
        keys = [*queue_keys(queue.name), released_key(queue.name, self._node)]
        publishing = publishing_arguments(session, queue.name)
        args: list[bytes | str | int] = [queue.requeue_number, INFLIGHT_TTL_MS, *publishing, *queue.requeueing]
        self._run(queue, session, RELEASE, keys, args, partial(self._released, queue, session))

    def _released(self, queue: Queue, session: SubscribedSession, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            error = session.translate_error(reply)
            self._log.write(logging.ERROR, "%d messages cannot be requeued yet: %s", len(queue.requeueing), error)
            queue.prefetched.extendleft(reversed(queue.requeueing))
            queue.waiters.dispatch()
        queue.requeueing = []
        self._take(queue)
        self._requeue_later(queue)
