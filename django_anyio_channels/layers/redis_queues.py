"""Queues: which tasks of this node wait for messages, and how they get them without anybody polling."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import hiredis

from ..exceptions import ListenerClosed
from .redis_scripts import GIVE_BACK, STAMP, TAKE, in_flight, is_unknown, wake_ups
from .redis_subscriptions import Subscriptions
from .redis_wire import Wire

_MOST_AT_ONCE = 100
_PATIENCE = 1.0
_KEEP_IN_FLIGHT = 300_000


class Link(Protocol):
    """What the queues need of one life."""

    subscriptions: Subscriptions
    publish_verb: str

    def commands(self, key: bytes) -> Wire:
        """The wire for the commands about a key."""

    def refusal(self, reply: hiredis.ReplyError) -> Exception:
        """What to raise for a refused command."""


class Queue:
    """One queue that tasks of this node read from."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.takers: deque[asyncio.Future[bytes]] = deque()
        self.asking = False
        """A call to the server is under way."""
        self.answered = True
        """The server's answer to call `number` has come; until then the call is repeated under its number."""
        self.number = 0
        self.hears = False
        """The wake-ups of this life are subscribed to."""
        self.woken = False
        """A wake-up came after the last call was sent."""
        self.idle = False
        """Nobody waited at the last look."""


class Queues:
    """The readers of a layer, over all its lives.

    A reader asks at once. If there is nothing, it is asked again when the server says that an empty queue got a
    message. What an answer brings for readers that have gone goes to others, or back to the head of the queue. An
    answer that was lost with its connection is asked for again in the next life, under its number.
    """

    def __init__(self) -> None:
        self._node = uuid4().hex
        self._queues: dict[bytes, Queue] = {}
        self._link: Link | None = None
        self._returned: list[tuple[Queue, list[bytes]]] = []
        """What readers left behind while there was no link."""
        self._answers: set[asyncio.Future[Any]] = set()
        """The calls that are on their way."""

    async def take(self, name: str) -> bytes:
        """Wait for a message."""
        key = name.encode()
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        taker: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        queue.takers.append(taker)
        self._ask(queue)
        try:
            message = await taker
        except BaseException:
            if taker in queue.takers:
                queue.takers.remove(taker)
            elif taker.done() and not taker.cancelled() and taker.exception() is None:
                self._hand_out(queue, [taker.result()])
            raise
        return message[STAMP:]

    def begin(self, link: Link) -> None:
        """A life begins; what the last one left unanswered is asked for again."""
        self._link = link
        returned, self._returned = self._returned, []
        for queue, messages in returned:
            self._give_back(queue, link, messages)
        for queue in self._queues.values():
            queue.asking = queue.hears = queue.woken = False
            self._ask(queue)

    def end(self, error: ListenerClosed) -> None:
        """The life is over."""
        self._link = None
        for queue in self._queues.values():
            self._fail(queue, error)

    async def leave(self, error: ListenerClosed) -> None:
        """End the life in peace: what is on its way to readers returns to its queue, if it comes within a second."""
        link = self._link
        for queue in self._queues.values():
            self._fail(queue, error)
        if self._answers:
            await asyncio.wait(self._answers, timeout=_PATIENCE)
        # Let readers that were cancelled with a message in their hands put it back.
        await asyncio.sleep(0)
        if self._link is link:
            self.end(error)

    def tidy(self) -> None:
        """Forget queues that nobody has read from since the last call."""
        for queue in list(self._queues.values()):
            unused = not queue.takers and not queue.asking and queue.answered
            if unused and queue.idle:
                del self._queues[queue.name]
                if queue.hears and self._link is not None:
                    self._link.subscriptions.silence(wake_ups(queue.name))
            queue.idle = unused

    def _ask(self, queue: Queue) -> None:
        link = self._link
        if link is None or queue.asking or not (queue.takers or not queue.answered):
            return
        if queue.answered:
            queue.number += 1
            queue.answered = False
        queue.asking = True
        queue.woken = False
        self._call(queue, link, by_hash=True)

    def _call(self, queue: Queue, link: Link, by_hash: bool) -> None:
        call = TAKE.call if by_hash else TAKE.call_with_text
        keys = [queue.name, in_flight(queue.name, self._node)]
        count = min(len(queue.takers), _MOST_AT_ONCE)
        answer = link.commands(queue.name).ask(call(keys, count, queue.number, _KEEP_IN_FLIGHT))
        self._answers.add(answer)
        answer.add_done_callback(partial(self._answered, queue, link))

    def _answered(self, queue: Queue, link: Link, answer: asyncio.Future[Any]) -> None:
        self._answers.discard(answer)
        if link is not self._link or answer.exception() is not None:
            return  # the life is over: `end` has told the takers
        reply = answer.result()
        if is_unknown(reply):
            self._call(queue, link, by_hash=False)
            return
        queue.asking = False
        queue.answered = True
        if isinstance(reply, hiredis.ReplyError):
            self._fail(queue, link.refusal(reply))
        elif reply:
            self._hand_out(queue, reply)
            self._ask(queue)
        elif queue.woken:
            self._ask(queue)
        elif queue.takers and not queue.hears:
            self._listen(queue, link)

    def _listen(self, queue: Queue, link: Link) -> None:
        queue.hears = queue.asking = True
        answer = link.subscriptions.signal(wake_ups(queue.name), partial(self._wake, queue))
        answer.add_done_callback(partial(self._listening, queue, link))

    def _listening(self, queue: Queue, link: Link, answer: asyncio.Future[Any]) -> None:
        if link is not self._link or answer.exception() is not None:
            return
        queue.asking = False
        if isinstance(answer.result(), hiredis.ReplyError):
            queue.hears = False
            self._fail(queue, link.refusal(answer.result()))
        else:
            # Something may have come between the empty answer and the subscription.
            self._ask(queue)

    def _wake(self, queue: Queue) -> None:
        queue.woken = True
        self._ask(queue)

    def _hand_out(self, queue: Queue, messages: list[bytes]) -> None:
        left = deque(messages)
        while left and queue.takers:
            taker = queue.takers.popleft()
            if not taker.done():
                taker.set_result(left.popleft())
        if left and self._link is None:
            self._returned.append((queue, list(left)))
        elif left and self._link is not None:
            self._give_back(queue, self._link, list(left))

    def _give_back(self, queue: Queue, link: Link, messages: list[bytes]) -> None:
        call = GIVE_BACK.call_with_text([queue.name], link.publish_verb, wake_ups(queue.name), *messages)
        link.commands(queue.name).tell(call)

    def _fail(self, queue: Queue, error: Exception) -> None:
        while queue.takers:
            taker = queue.takers.popleft()
            if not taker.done():
                taker.set_exception(error)
