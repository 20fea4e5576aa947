"""Queues: which tasks of this node wait for messages, and how they get them without anybody polling."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import hiredis

from ..exceptions import ListenerClosed
from ..losses import BoundedLog
from .redis_scripts import (
    GIVE_BACK,
    STAMP,
    TAKE,
    given_back,
    in_flight,
    is_unknown,
    pushes,
    root,
    waiting,
    wake_ups,
)
from .redis_subscriptions import Subscriptions
from .redis_wire import Speaker

_MOST_AT_ONCE = 100
_MOST_AHEAD = 32
_QUICK = 0.005
"""Seconds between getting a message and asking for the next one of a reader for whom it is worth to take ahead."""

_HELD = 0.02
"""Seconds for which a message that nobody here waits for is kept for a reader that comes back."""

_PATIENCE = 1.0
_KEPT = 300_000
_CALL_AGAIN = 100.0
"""Seconds after which a call that waits is repeated, before the server forgets it after `_KEPT` milliseconds."""


class Link(Protocol):
    """What the queues need of one life."""

    subscriptions: Subscriptions
    publish_verb: str

    def commands(self, key: bytes) -> Speaker:
        """The wire for the commands about a key."""

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""


class Queue:
    """One queue that tasks of this node read from."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.takers: deque[asyncio.Future[bytes]] = deque()
        self.ready: deque[bytes] = deque()
        """Messages that are here and not yet with a reader; empty as long as readers wait."""
        self.ahead = 0
        """How many messages more than there are waiting readers are asked for."""
        self.more = False
        """The last answer was as long as it might be: there may be more."""
        self.number = 0
        self.answered = True
        """Call `number` has brought its messages, or none and does not wait; else it is repeated in the next life."""
        self.under_way = False
        """The server has not yet replied to that call. If it has, and not answered, the call waits there."""
        self.called = 0.0
        self.returning: list[bytes] = []
        """What is being given back, under `return_number`, repeated in the next life until the server confirms it."""
        self.return_number = 0
        self.hears = False
        """What the server pushes is subscribed to in this life."""
        self.listening = False
        """That is being done."""
        self.woken = False
        """A wake-up came after the last call was sent."""
        self.used = 0.0
        """When a reader came last."""
        self.handed = 0.0
        """When a reader got a message last."""
        self.look: asyncio.TimerHandle | None = None
        self.idle = False
        """Nobody used it at the last look."""


class Queues:
    """The readers of a layer, over all its lives.

    A reader asks at once. If there is nothing, its call waits on the server, which pushes it the next message. Readers
    that come back quickly have a few messages taken ahead: as many as they read in a moment, 32 at most, which is what
    dies with a process that is killed. What is here and nobody comes for goes back to the head of the queue.

    Calls are numbered. An answer that was lost with its connection is asked for again in the next life.
    """

    def __init__(self) -> None:
        self._node = uuid4().hex
        self._queues: dict[bytes, Queue] = {}
        self._link: Link | None = None
        self._answers: set[asyncio.Future[Any]] = set()
        """The calls that are on their way."""
        self._log = BoundedLog()

    async def take(self, name: str) -> bytes:
        """Wait for a message."""
        loop = asyncio.get_running_loop()
        key = name.encode()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.used = now = loop.time()
        if queue.ready:
            queue.handed = now
            message = queue.ready.popleft()
            self._ask(queue)
            return message[STAMP:]
        queue.ahead = min(_MOST_AHEAD, 2 * queue.ahead or 1) if now - queue.handed < _QUICK else 0
        taker: asyncio.Future[bytes] = loop.create_future()
        queue.takers.append(taker)
        self._ask(queue)
        try:
            message = await taker
        except BaseException:
            if taker in queue.takers:
                queue.takers.remove(taker)
            elif taker.done() and not taker.cancelled() and taker.exception() is None:
                queue.ready.appendleft(taker.result())
                self._hand_out(queue)
            self._look_later(queue)
            raise
        return message[STAMP:]

    def begin(self, link: Link) -> None:
        """A life begins; what the last one left unanswered is asked for again."""
        self._link = link
        for queue in self._queues.values():
            queue.hears = queue.listening = queue.woken = queue.more = False
            if queue.returning:
                self._give_back(queue, link)
            if not queue.answered:
                self._call(queue, link)
            self._look_later(queue)

    def end(self, error: ListenerClosed) -> None:
        """The life is over."""
        self._link = None
        for queue in self._queues.values():
            self._fail(queue, error)

    async def leave(self, error: ListenerClosed) -> None:
        """End the life in peace: what is on its way to readers returns to its queue, if it can within a second."""
        link = self._link
        for queue in self._queues.values():
            self._fail(queue, error)
        # Let readers that were cancelled with a message in their hands put it down.
        await asyncio.sleep(0)
        for queue in self._queues.values():
            if not queue.answered and link is self._link and link is not None:
                queue.more = False
                self._call(queue, link)
        await self._all_answered()
        for queue in self._queues.values():
            if queue.ready and not queue.returning and link is self._link and link is not None:
                self._return(queue, link)
        await self._all_answered()
        if self._link is link:
            self.end(error)

    async def _all_answered(self) -> None:
        if self._answers:
            await asyncio.wait(self._answers, timeout=_PATIENCE)

    def tidy(self) -> None:
        """Forget queues that nobody has used since the last call, and call again where a call waits for long."""
        now = asyncio.get_running_loop().time()
        for queue in list(self._queues.values()):
            link = self._link
            if link is not None and not queue.answered and not queue.under_way and now - queue.called > _CALL_AGAIN:
                self._call(queue, link)
            unused = queue.answered and not (queue.takers or queue.ready or queue.returning or queue.listening)
            if unused and queue.idle:
                del self._queues[queue.name]
                if queue.hears and link is not None:
                    link.subscriptions.silence(wake_ups(queue.name))
                    link.subscriptions.silence(pushes(queue.name, self._node))
            queue.idle = unused

    # ---- asking -------------------------------------------------------------------------------------------------

    def _ask(self, queue: Queue) -> None:
        link = self._link
        if link is None or not queue.answered or queue.listening:
            return
        if queue.takers or (queue.more and queue.ahead and len(queue.ready) <= queue.ahead // 2):
            queue.number += 1
            queue.answered = False
            self._call(queue, link)

    def _call(self, queue: Queue, link: Link, by_hash: bool = True) -> None:
        queue.under_way = True
        queue.woken = False
        queue.called = asyncio.get_running_loop().time()
        readers = len(queue.takers)
        count = min(readers + queue.ahead, _MOST_AT_ONCE) if readers or queue.more else 0
        waits = bool(readers and queue.hears)
        call = TAKE.call if by_hash else TAKE.call_with_text
        keys = [queue.name, waiting(queue.name), in_flight(queue.name, self._node)]
        answer = link.commands(queue.name).ask(call(keys, self._node, count, queue.number, _KEPT, int(waits)))
        self._answers.add(answer)
        answer.add_done_callback(partial(self._replied, queue, link, queue.number, count, waits))

    def _replied(
        self, queue: Queue, link: Link, number: int, count: int, waits: bool, answer: asyncio.Future[Any]
    ) -> None:
        self._answers.discard(answer)
        if link is not self._link or answer.exception() is not None:
            return  # the life is over: `end` has told the takers
        if number != queue.number or queue.answered:
            return  # a push was quicker
        reply = answer.result()
        if is_unknown(reply):
            self._call(queue, link, by_hash=False)
            return
        queue.under_way = False
        if isinstance(reply, hiredis.ReplyError):
            queue.answered = True
            self._fail(queue, link.refusal(reply))
        elif reply:
            self._arrived(queue, reply, more=0 < count <= len(reply))
        elif queue.woken and queue.takers:
            self._call(queue, link)
        elif waits:
            self._look_later(queue)
        else:
            queue.answered = True
            queue.more = False
            if queue.takers and not queue.hears:
                self._listen(queue, link)
            self._ask(queue)

    def _arrived(self, queue: Queue, messages: list[bytes], *, more: bool) -> None:
        queue.answered = True
        queue.under_way = False
        queue.more = more
        queue.ready.extend(messages)
        self._hand_out(queue)
        self._ask(queue)
        self._look_later(queue)

    def _hand_out(self, queue: Queue) -> None:
        while queue.ready and queue.takers:
            taker = queue.takers.popleft()
            if not taker.done():
                taker.set_result(queue.ready.popleft())
                queue.handed = asyncio.get_running_loop().time()

    def _fail(self, queue: Queue, error: Exception) -> None:
        while queue.takers:
            taker = queue.takers.popleft()
            if not taker.done():
                taker.set_exception(error)

    # ---- being told ---------------------------------------------------------------------------------------------

    def _listen(self, queue: Queue, link: Link) -> None:
        queue.listening = True
        answers = asyncio.gather(
            link.subscriptions.signal(wake_ups(queue.name), partial(self._wake, queue)),
            link.subscriptions.signal(pushes(queue.name, self._node), partial(self._pushed, queue)),
        )
        answers.add_done_callback(partial(self._listens, queue, link))

    def _listens(self, queue: Queue, link: Link, answers: asyncio.Future[list[Any]]) -> None:
        if answers.cancelled() or answers.exception() is not None or link is not self._link:
            return
        queue.listening = False
        for reply in answers.result():
            if isinstance(reply, hiredis.ReplyError):
                self._fail(queue, link.refusal(reply))
                return
        queue.hears = True
        # Something may have come between the empty answer and the subscription.
        self._ask(queue)

    def _wake(self, queue: Queue, message: bytes) -> None:
        queue.woken = True
        link = self._link
        if link is not None and queue.takers and not queue.answered and not queue.under_way:
            self._call(queue, link)

    def _pushed(self, queue: Queue, push: bytes) -> None:
        number, _, message = push.partition(b" ")
        if not queue.answered and number == b"%d" % queue.number and len(message) >= STAMP:
            self._arrived(queue, [message], more=False)

    # ---- giving back --------------------------------------------------------------------------------------------

    def _look_later(self, queue: Queue) -> None:
        if queue.look is None and not queue.takers and (queue.ready or not queue.answered):
            queue.look = asyncio.get_running_loop().call_later(_HELD, self._look, queue)

    def _look(self, queue: Queue) -> None:
        """If no reader came back: give back what is here, and end the call that waits."""
        queue.look = None
        link = self._link
        if link is None or queue.takers or (queue.answered and not queue.ready):
            return
        recently = asyncio.get_running_loop().time() - queue.used < _HELD
        if recently or queue.under_way or queue.returning:
            self._look_later(queue)
        elif not queue.answered:
            queue.more = False
            self._call(queue, link)
        else:
            self._return(queue, link)

    def _return(self, queue: Queue, link: Link) -> None:
        queue.returning = list(queue.ready)
        queue.ready.clear()
        queue.more = False
        queue.return_number += 1
        self._give_back(queue, link)

    def _give_back(self, queue: Queue, link: Link, by_hash: bool = True) -> None:
        call = GIVE_BACK.call if by_hash else GIVE_BACK.call_with_text
        keys = [queue.name, waiting(queue.name), given_back(queue.name, self._node)]
        terms = queue.return_number, _KEPT, link.publish_verb, root(queue.name)
        answer = link.commands(queue.name).ask(call(keys, *terms, *queue.returning))
        self._answers.add(answer)
        answer.add_done_callback(partial(self._returned, queue, link))

    def _returned(self, queue: Queue, link: Link, answer: asyncio.Future[Any]) -> None:
        self._answers.discard(answer)
        if link is not self._link or answer.exception() is not None:
            return
        reply = answer.result()
        if is_unknown(reply):
            self._give_back(queue, link, by_hash=False)
            return
        if isinstance(reply, hiredis.ReplyError):
            refusal = link.refusal(reply)
            self._log.write(logging.ERROR, "%d messages cannot be given back yet: %s", len(queue.returning), refusal)
            queue.ready.extendleft(reversed(queue.returning))
            self._hand_out(queue)
        queue.returning = []
        self._look_later(queue)
