"""Queues: which tasks of this node wait for messages, and how they get them without anybody polling."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import hiredis

from ...core.exceptions import ListenerClosed
from ...core.stats import RateLimitedLogger
from ..common.waiters import WaiterQueue
from .connection import Speaker
from .scripts import GIVE_BACK, STAMP, TAKE, given_back, in_flight, is_unknown, pushes, root, waiting, wake_ups
from .subscriptions import Subscriptions

_MOST_AT_ONCE = 100
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

    def outwaits(self, reply: hiredis.ReplyError, queue: str) -> bool:
        """Whether the reason of a refusal passes by itself: readers ask again at once, and the log says so."""


class Queue:
    """One queue that tasks of this node read from."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.ready: deque[bytes] = deque()
        """Messages that are here and not yet with a reader."""
        self.waiters = WaiterQueue(self.ready)
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
        self.look: asyncio.TimerHandle | None = None
        self.idle = False
        """Nobody has used it since the last `Queues.tidy`."""


class Queues:
    """The readers of a layer, over all its lives.

    A reader asks at once. If there is nothing, its call waits on the server, which pushes it the next message. No
    more is taken than there are readers. What came for a reader that has gone waits a moment for the next one, which
    may be the same that polls, and then goes back to the head of the queue.

    Calls are numbered. An answer that was lost with its connection is asked for again in the next life.
    """

    def __init__(self) -> None:
        self._node = uuid4().hex
        self._queues: dict[bytes, Queue] = {}
        # One for all: the server still knows the last numbers of a queue that was forgotten here.
        self._numbers = count(1)
        self._link: Link | None = None
        self._answers: set[asyncio.Future[Any]] = set()
        """The calls that are on their way."""
        self._log = RateLimitedLogger()

    async def take(self, name: str) -> bytes:
        """Wait for a message."""
        loop = asyncio.get_running_loop()
        key = name.encode()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        queue.used = loop.time()
        queue.idle = False
        if queue.ready:
            return queue.ready.popleft()[STAMP:]
        place = queue.waiters.join()
        self._ask(queue)
        try:
            message = await queue.waiters.wait(place)
        except BaseException:
            self._look_later(queue)
            raise
        return message[STAMP:]

    def begin(self, link: Link) -> None:
        """A life begins; what the last one left unanswered is asked for again."""
        self._link = link
        for queue in self._queues.values():
            queue.hears = queue.listening = queue.woken = False
            if queue.returning:
                self._give_back(queue, link)
            if not queue.answered:
                self._call(queue, link)
            self._look_later(queue)

    def end(self, error: ListenerClosed) -> None:
        """The life is over."""
        self._link = None
        for queue in self._queues.values():
            queue.waiters.fail_all(error)

    async def leave(self, error: ListenerClosed) -> None:
        """End the life in peace: what is on its way to readers returns to its queue, if it can within a second."""
        link = self._link
        for queue in self._queues.values():
            queue.waiters.fail_all(error)
        # Let readers that were cancelled with a message in their hands put it down.
        await asyncio.sleep(0)
        for queue in self._queues.values():
            if not queue.answered and link is self._link and link is not None:
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
            unused = queue.answered and not (queue.waiters or queue.ready or queue.returning or queue.listening)
            if unused and queue.idle:
                del self._queues[queue.name]
                if queue.hears and link is not None:
                    link.subscriptions.silence(wake_ups(queue.name))
                    link.subscriptions.silence(pushes(queue.name, self._node))
            queue.idle = unused

    # ---- asking -------------------------------------------------------------------------------------------------

    def _ask(self, queue: Queue) -> None:
        link = self._link
        # What is being given back comes first: the server may not have it yet, if it has to be told the script again.
        if link is None or not queue.answered or queue.listening or queue.returning:
            return
        if queue.waiters:
            queue.number = next(self._numbers)
            queue.answered = False
            self._call(queue, link)

    def _call(self, queue: Queue, link: Link, by_hash: bool = True) -> None:
        queue.under_way = True
        queue.woken = False
        queue.called = asyncio.get_running_loop().time()
        most = min(len(queue.waiters), _MOST_AT_ONCE)
        waits = bool(most and queue.hears)
        call = TAKE.call if by_hash else TAKE.call_with_text
        keys = [queue.name, waiting(queue.name), in_flight(queue.name, self._node)]
        answer = link.commands(queue.name).ask(call(keys, self._node, most, queue.number, _KEPT, int(waits)))
        self._answers.add(answer)
        answer.add_done_callback(partial(self._replied, queue, link, queue.number, waits))

    def _replied(self, queue: Queue, link: Link, number: int, waits: bool, answer: asyncio.Future[Any]) -> None:
        self._answers.discard(answer)
        if link is not self._link or answer.exception() is not None:
            return  # the life is over: `end` has told the waiters
        if number != queue.number or queue.answered:
            return  # a push was quicker
        reply = answer.result()
        if is_unknown(reply):
            self._call(queue, link, by_hash=False)
            return
        queue.under_way = False
        if isinstance(reply, hiredis.ReplyError):
            if link.outwaits(reply, queue.name.decode()):
                self._call(queue, link)
                return
            queue.answered = True
            queue.waiters.fail_all(link.refusal(reply))
        elif reply:
            self._arrived(queue, reply)
        elif queue.woken and queue.waiters:
            self._call(queue, link)
        elif waits:
            self._look_later(queue)
        else:
            queue.answered = True
            if queue.waiters and not queue.hears:
                self._listen(queue, link)
            self._ask(queue)

    def _arrived(self, queue: Queue, messages: list[bytes]) -> None:
        queue.answered = True
        queue.under_way = False
        queue.ready.extend(messages)
        queue.waiters.dispatch()
        self._ask(queue)
        self._look_later(queue)

    # ---- being told ---------------------------------------------------------------------------------------------

    def _listen(self, queue: Queue, link: Link) -> None:
        queue.listening = True
        answers = asyncio.gather(
            link.subscriptions.signal(wake_ups(queue.name), partial(self._wake, queue)),
            link.subscriptions.signal(pushes(queue.name, self._node), partial(self._pushed, queue)),
        )
        answers.add_done_callback(partial(self._listens, queue, link))

    def _listens(self, queue: Queue, link: Link, answers: asyncio.Future[list[Any]]) -> None:
        if answers.exception() is not None or link is not self._link:
            return
        queue.listening = False
        for reply in answers.result():
            if isinstance(reply, hiredis.ReplyError):
                if link.outwaits(reply, queue.name.decode()):
                    self._listen(queue, link)
                else:
                    queue.waiters.fail_all(link.refusal(reply))
                return
        queue.hears = True
        # Something may have come between the empty answer and the subscription.
        self._ask(queue)

    def _wake(self, queue: Queue, message: bytes) -> None:
        queue.woken = True
        link = self._link
        if link is not None and queue.waiters and not queue.answered and not queue.under_way:
            self._call(queue, link)

    def _pushed(self, queue: Queue, push: bytes) -> None:
        number, _, message = push.partition(b" ")
        if not queue.answered and number == b"%d" % queue.number and len(message) >= STAMP:
            self._arrived(queue, [message])

    # ---- giving back --------------------------------------------------------------------------------------------

    def _look_later(self, queue: Queue) -> None:
        if queue.look is None and not queue.waiters and (queue.ready or not queue.answered):
            queue.look = asyncio.get_running_loop().call_later(_HELD, self._look, queue)

    def _look(self, queue: Queue) -> None:
        """If no reader came back: give back what is here, and end the call that waits."""
        queue.look = None
        link = self._link
        if link is None or queue.waiters or (queue.answered and not queue.ready):
            return
        recently = asyncio.get_running_loop().time() - queue.used < _HELD
        if recently or queue.under_way or queue.returning:
            self._look_later(queue)
        elif not queue.answered:
            self._call(queue, link)
        else:
            self._return(queue, link)

    def _return(self, queue: Queue, link: Link) -> None:
        queue.returning = list(queue.ready)
        queue.ready.clear()
        queue.return_number = next(self._numbers)
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
            queue.waiters.dispatch()
        queue.returning = []
        self._ask(queue)
        self._look_later(queue)
