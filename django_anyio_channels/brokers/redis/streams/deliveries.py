"""Acknowledged work: who waits for jobs at this node, what is in whose hands, and what has come too often."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

import hiredis

from ....core.events import Event, Gap
from ....core.exceptions import ListenerClosed
from ....core.stats import RateLimitedLogger
from ...common.waiters import WaiterQueue
from ..scripts import is_unknown
from ..session import Life, checked
from .consumer_groups import Place

_MOST_AT_ONCE = 100
_HELD = 0.02
"""Seconds for which a job that nobody here waits for is kept for a reader that comes back."""
_IDLE = 60.0
"""Seconds without a reader after which a place of work is left."""
_PATIENCE = 1.0
_KEPT = 300_000


class Job(NamedTuple):
    """What the server has handed out."""

    identity: bytes
    deliveries: int
    message: bytes


class Desk:
    """One place of work, and the tasks of this node that work there."""

    def __init__(self, place: Place, group: str) -> None:
        self.place = place
        self.group = group
        self.ready: deque[Job] = deque()
        """Jobs that are here and with no reader."""
        self.waiters = WaiterQueue(self.ready)
        self.number = 0
        self.answered = True
        """Call `number` has brought its jobs; else it is repeated in the next life."""
        self.bell = asyncio.Event()
        """There may be something to do."""
        self.used = 0.0
        """When a reader was here last."""
        self.serving: asyncio.Task[None] | None = None

    def take_ready(self) -> list[Job]:
        ready = list(self.ready)
        self.ready.clear()
        return ready


class Receipt:
    """Acknowledges one job when all who hold its event are done with it."""

    def __init__(self, acknowledge: Callable[[], Awaitable[None]]) -> None:
        self._holders = 1
        self._acknowledge = acknowledge

    def retain(self) -> None:
        self._holders += 1

    def release(self) -> Awaitable[None]:
        self._holders -= 1
        return _done() if self._holders else self._acknowledge()


class Work:
    """The desks of a layer, over all its lives.

    As long as tasks wait at a desk, it asks for as many jobs as there are tasks: when one begins to wait, when
    somebody says that there may be more, and when a job is due that somebody else has not acknowledged. A call whose
    answer was lost with its connection is repeated in the next life, and so is what could not be acknowledged.
    """

    def __init__(self, redeliver_after: float) -> None:
        self._node = uuid4().hex
        self._milliseconds = max(1, round(redeliver_after * 1000))
        self._desks: dict[bytes, Desk] = {}
        self._life: Life | None = None
        self._leaving = False
        self._calls = 0
        self._in_hands: dict[tuple[Place, bytes], float] = {}
        """What readers have and nobody has acknowledged, and until when it is theirs."""
        self._acknowledging: dict[tuple[Place, bytes], asyncio.Future[None]] = {}
        self._log = RateLimitedLogger()

    async def take(self, place: Place, group: str) -> Event[bytes]:
        """Wait for a job of a life that has begun."""
        loop = asyncio.get_running_loop()
        desk = self._desks.get(place.in_hands)
        if desk is None:
            desk = self._desks[place.in_hands] = Desk(place, group)
        place_in_line = desk.waiters.join()
        desk.waiters.dispatch()
        if not place_in_line.done():
            self._serve(desk)
        try:
            job = await desk.waiters.wait(place_in_line)
        except BaseException:
            if desk.ready:
                self._serve(desk)
            desk.used = loop.time()
            raise
        self._remember(place, job, loop.time())
        receipt = Receipt(partial(self._acknowledge, place, job.identity))
        return Event(group, job.message, None, receipt, place.position(job.identity), job.deliveries)

    def look(self, group: str) -> None:
        """There may be something at the desks of a group."""
        for desk in self._desks.values():
            if desk.group == group:
                desk.bell.set()

    # ---- lives --------------------------------------------------------------------------------------------------

    def begin(self, life: Life) -> None:
        """A life begins; what the last one left unanswered is asked for, and said, again."""
        self._life = life
        self._leaving = False
        life.subscriptions.on_end = partial(self._lost, life)
        for key in self._acknowledging:
            self._tell(life, key)
        for desk in self._desks.values():
            if not desk.answered or desk.ready:
                self._serve(desk)

    def end(self, error: ListenerClosed) -> None:
        """The life is over."""
        self._life = None
        for desk in self._desks.values():
            desk.waiters.fail_all(error)
            desk.bell.set()
        for told in self._acknowledging.values():
            _fail(told, error)

    async def leave(self, life: Life, error: ListenerClosed) -> None:
        """End the life in peace: what is in the hands of this node goes to others, if it can within a second."""
        self._leaving = True
        for desk in self._desks.values():
            desk.waiters.fail_all(error)
            desk.bell.set()
        # Let readers that were cancelled with a job in their hands put it down.
        await asyncio.sleep(0)
        tasks = [desk.serving for desk in self._desks.values() if desk.serving is not None]
        tasks.append(asyncio.get_running_loop().create_task(self._give_back_all(life)))
        await asyncio.wait([*tasks, *self._acknowledging.values()], timeout=_PATIENCE)
        for task in tasks:
            task.cancel()
        self.end(error)

    async def _give_back_all(self, life: Life) -> None:
        held: dict[Place, list[bytes]] = {}
        for place, identity in self._in_hands:
            held.setdefault(place, []).append(identity)
        self._in_hands.clear()
        for place, identities in held.items():
            await self._give_back(place, life, identities, unread=False)

    def _lost(self, life: Life, error: ListenerClosed) -> None:
        if self._life is life:
            self.end(error)

    # ---- serving ------------------------------------------------------------------------------------------------

    def _serve(self, desk: Desk) -> None:
        desk.used = asyncio.get_running_loop().time()
        desk.bell.set()
        if desk.serving is None and self._life is not None:
            desk.serving = asyncio.get_running_loop().create_task(self._serve_in(desk, self._life))

    async def _serve_in(self, desk: Desk, life: Life) -> None:
        try:
            await self._listen(desk, life)
            while self._life is life and await self._turn(desk, life):
                pass
        except Exception as error:
            desk.waiters.fail_all(error)
        finally:
            desk.serving = None

    async def _listen(self, desk: Desk, life: Life) -> None:
        """Be woken before asking for the first time, so that nothing comes in between."""
        while True:
            reply = await life.subscriptions.signal(desk.place.wake_ups, lambda message: desk.bell.set())
            if not _has_to_wait(desk, life, reply):
                break
        checked(life, reply)

    async def _turn(self, desk: Desk, life: Life) -> bool:
        """Ask if somebody waits, and wait until there may be more to do. Returns whether to go on."""
        loop = asyncio.get_running_loop()
        desk.bell.clear()
        seconds = 0.0
        if desk.waiters or not desk.answered:
            seconds = await self._ask(desk, life)
        unused = loop.time() - desk.used
        if desk.ready and (self._leaving or unused >= _HELD):
            await self._give_back(desk.place, life, [job.identity for job in desk.take_ready()], unread=True)
            return True
        if not desk.waiters and (self._leaving or unused >= _IDLE):
            self._forget(desk, life)
            return False
        if not desk.waiters:
            seconds = _HELD if desk.ready else _IDLE
        timer = loop.call_later(seconds, desk.bell.set)
        await desk.bell.wait()
        timer.cancel()
        return True

    async def _ask(self, desk: Desk, life: Life) -> float:
        """Have as many jobs as there are waiters. Returns after how many seconds there may be more."""
        count = min(len(desk.waiters), _MOST_AT_ONCE)
        if desk.answered:
            self._calls += 1
            desk.number = self._calls
            desk.answered = False
        reply = await desk.place.take(life, self._node, desk.number, count, self._milliseconds, _KEPT)
        if _has_to_wait(desk, life, reply):
            return 0.0
        desk.answered = True
        desk.used = asyncio.get_running_loop().time()
        checked(life, reply)
        missed, milliseconds, *taken = reply
        if missed:
            life.subscriptions.arrivals.add(Gap(desk.group, b""))
        jobs = [Job(identity, int(deliveries), message) for identity, deliveries, message in taken]
        desk.ready.extend(jobs)
        desk.waiters.dispatch()
        return 0.0 if len(jobs) >= count else milliseconds / 1000

    async def _give_back(self, place: Place, life: Life, identities: list[bytes], *, unread: bool) -> None:
        reply = await place.give_back(life, unread, identities)
        if isinstance(reply, hiredis.ReplyError):
            text = "%d messages of %s cannot be given back, and come again later: %s"
            self._log.write(logging.ERROR, text, len(identities), place.name.decode(), life.refusal(reply))

    def _forget(self, desk: Desk, life: Life) -> None:
        del self._desks[desk.place.in_hands]
        life.subscriptions.silence(desk.place.wake_ups)

    # ---- acknowledging ------------------------------------------------------------------------------------------

    def _remember(self, place: Place, job: Job, now: float) -> None:
        # What is no longer theirs comes first, since all are theirs for the same time.
        while self._in_hands and next(iter(self._in_hands.values())) < now:
            del self._in_hands[next(iter(self._in_hands))]
        self._in_hands.pop((place, job.identity), None)
        self._in_hands[place, job.identity] = now + self._milliseconds / 1000

    def _acknowledge(self, place: Place, identity: bytes) -> Awaitable[None]:
        key = place, identity
        self._in_hands.pop(key, None)
        told = self._acknowledging.get(key)
        if told is None:
            told = self._acknowledging[key] = asyncio.get_running_loop().create_future()
            if self._life is None:
                _fail(told, ListenerClosed("The link is down; the acknowledgement is repeated when it is back"))
            else:
                self._tell(self._life, key)
        return told

    def _tell(self, life: Life, key: tuple[Place, bytes], by_hash: bool = True) -> None:
        place, identity = key
        try:
            answer = place.acknowledge(life, identity, by_hash)
        except ListenerClosed as error:
            _fail(self._acknowledging[key], error)
        else:
            answer.add_done_callback(partial(self._answered, life, key))

    def _answered(self, life: Life, key: tuple[Place, bytes], answer: asyncio.Future[Any]) -> None:
        error = answer.exception()
        if error is not None:
            _fail(self._acknowledging[key], error)
            return
        if is_unknown(answer.result()):
            self._tell(life, key, by_hash=False)
            return
        told = self._acknowledging.pop(key)
        if isinstance(answer.result(), hiredis.ReplyError):
            _fail(told, life.refusal(answer.result()))
        elif not told.done():
            told.set_result(None)


def _has_to_wait(desk: Desk, life: Life, reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and life.outwaits(reply, desk.group)


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Nobody needs to wait for it.
        future.exception()
