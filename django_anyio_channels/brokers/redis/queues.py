"""Readers of normal channels: Redis lists, from which a waiting node is pushed the next message by ``PUBLISH``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import hiredis

from ...core.exceptions import ListenerClosed
from ...core.stats import RateLimitedLogger
from .keys import delivery_channel, notify_channel, released_key
from .readers import INFLIGHT_TTL_MS, Queue, publishing_arguments, queue_keys
from .scripts import EXPIRY_PREFIX, RELEASE, TAKE, Script, ScriptCalls
from .subscriptions import SubscribedSession

REQUEUE_DELAY = 0.02
"""Seconds for which a message without a reader here is kept for a reader that comes back."""

_CLOSE_SECONDS = 1.0
PURGED = b"purged"
"""The notification that a queue was emptied."""
_WANTED = b"wanted"
"""The notification that a node waits, and another one has prefetched messages."""
_REPEAT_SECONDS = 100.0
"""After which a waiting call is repeated, before the server forgets it after `INFLIGHT_TTL_MS`."""


class Queues:
    """The readers of a layer, over all its sessions.

    A reader asks at once. If there is nothing, its call waits on the server, which pushes it the next message. If the
    queue is long and the readers are quick, some more are prefetched, see `prefetch.py`. What came for a reader that
    has gone waits a moment for the next one, which may be the same that polls, and then returns to the head of the
    queue; so does what is prefetched, and at once if another node waits.

    Calls have sequence numbers. One whose reply was lost with its connection is repeated in the next session.
    """

    def __init__(self) -> None:
        self._node = uuid4().hex
        self._queues: dict[bytes, Queue] = {}
        # One for all: the server still knows the last numbers of a queue that was forgotten here.
        self._numbers = count(1)
        self._session: SubscribedSession | None = None
        self._calls = ScriptCalls()
        self._log = RateLimitedLogger()

    async def take(self, name: str) -> bytes:
        """Wait for a message."""
        key = name.encode()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.used = asyncio.get_running_loop().time()
        queue.idle = False
        if queue.ready and not queue.waiters:
            return queue.ready.popleft()[EXPIRY_PREFIX:]
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
            if not queue.answered:
                self._call(queue, session)
            if queue.requeueing:  # later, so that it comes before what was prefetched
                self._release(queue, session)
            self._requeue_later(queue)

    def end(self, error: ListenerClosed) -> None:
        """The session has ended."""
        self._session = None
        for queue in self._queues.values():
            queue.end_session(error, self._numbers)

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
        await self._calls.all_replied(_CLOSE_SECONDS)
        for queue in self._queues.values():
            if not queue.requeueing and session is self._session and session is not None:
                self._requeue(queue, session)
        await self._calls.all_replied(_CLOSE_SECONDS)
        self.end(error)

    def prune(self) -> None:
        """Forget queues that were not used since the last call, and repeat calls that have waited for long."""
        session, now = self._session, asyncio.get_running_loop().time()
        for queue in list(self._queues.values()):
            waits = not queue.answered and not queue.calling
            if session is not None and waits and now - queue.called > _REPEAT_SECONDS:
                self._call(queue, session)
            if queue.unused and queue.idle:
                del self._queues[queue.name]
                queue.unsubscribe(session, self._node)
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
        executor = session.executor(queue.name)
        self._calls.run(executor, script, keys, args, replied, lambda: session is self._session)

    # ---- taking -------------------------------------------------------------------------------------------------

    def _take(self, queue: Queue) -> None:
        session = self._session
        if session is not None and queue.prefetched.messages and queue.unserved > 0:
            queue.begin_prefetched(session, self._log)
        # What is being returned comes first: the server may not have it yet, if it has to be sent the script again.
        if session is None or not queue.answered or queue.subscribing or queue.requeueing:
            return
        if queue.unserved > 0:
            if queue.should_subscribe(quick=asyncio.get_running_loop().time() - queue.delivered < REQUEUE_DELAY):
                self._subscribe(queue, session)
            else:
                self._call_anew(queue, session)

    def _call_anew(self, queue: Queue, session: SubscribedSession) -> None:
        queue.number = next(self._numbers)
        queue.answered = False
        self._call(queue, session)

    def _call(self, queue: Queue, session: SubscribedSession) -> None:
        args, waits = queue.begin_call(session, self._node)
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
        elif isinstance(reply, list) and reply:
            self._deliver(queue, reply)
        elif queue.notified and (waits or queue.waiters):
            self._call(queue, session)
        elif waits:
            if reply:
                asyncio.get_running_loop().call_later(reply / 1000, self._call_again, queue, session, number)
            self._requeue_later(queue)
        else:
            queue.answered = True
            if queue.waiters and not queue.subscribed:
                self._subscribe(queue, session)
            self._take(queue)

    def _call_again(self, queue: Queue, session: SubscribedSession, number: int) -> None:
        """Ask again for what another node had prefetched."""
        waits = number == queue.number and not queue.answered and not queue.calling
        if waits and session is self._session:
            self._call(queue, session)

    def _deliver(self, queue: Queue, reply: list[Any]) -> None:
        queue.receive(self._node, reply)
        self._take(queue)
        if queue.wanted:
            self._on_notification(queue, _WANTED)
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
        if message == PURGED:
            queue.prefetched.messages.clear()
        elif message == _WANTED:
            queue.wanted = True
            if self._session is not None and queue.prefetched.messages:
                queue.prefetched.limit = 0
                self._call_anew(queue, self._session)
            return
        queue.notified = True
        if self._session is not None and not queue.answered and not queue.calling:
            self._call(queue, self._session)  # also without a reader: one may come before this call would be ended

    def _on_delivery(self, queue: Queue, push: bytes) -> None:
        number, _, message = push.partition(b" ")
        if not queue.answered and number == b"%d" % queue.number and len(message) >= EXPIRY_PREFIX:
            self._deliver(queue, [message])

    # ---- requeueing ---------------------------------------------------------------------------------------------

    def _requeue_later(self, queue: Queue) -> None:
        if queue.idle_timer is None and not queue.waiters and (queue.is_holding or not queue.answered):
            queue.idle_timer = asyncio.get_running_loop().call_later(REQUEUE_DELAY, self._requeue_if_idle, queue)

    def _requeue_if_idle(self, queue: Queue) -> None:
        """If no reader came back: return what is here, and end the call that waits."""
        queue.idle_timer = None
        session = self._session
        if session is None or queue.waiters or (queue.answered and not queue.is_holding):
            return
        recently = asyncio.get_running_loop().time() - queue.used < REQUEUE_DELAY
        if recently or queue.calling or queue.requeueing:
            self._requeue_later(queue)
        elif not queue.answered:
            self._call(queue, session)
        else:
            self._requeue(queue, session)

    def _requeue(self, queue: Queue, session: SubscribedSession) -> None:
        if queue.prefetched.messages:
            queue.prefetched.limit = 0
            self._call_anew(queue, session)
        if queue.ready:  # later, so that it comes before what was prefetched
            queue.requeueing = list(queue.ready)
            queue.ready.clear()
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
            queue.ready.extendleft(reversed(queue.requeueing))
            queue.waiters.dispatch()
        queue.requeueing = []
        self._take(queue)
        self._requeue_later(queue)
