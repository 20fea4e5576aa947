"""The tasks of one node that wait for messages of queues, and what the queues' keepers know of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from math import inf
from time import monotonic
from typing import Protocol

from ....core.exceptions import ChannelLayerError, ListenerClosed
from ..topics import to_group
from .owner import Spawn
from .store import Store, Stored

_LINGER_SECONDS = 0.1
"""How long a keeper is left in the belief that a reader waits who has gone, and a message for it stays here."""
_RARELY_SECONDS = 1.0
"""A reader that never waits finds what came since it was last here, if that is not longer ago than this."""


class Desk(Protocol):
    """What readers need of the node's queues. Every call raises `ListenerClosed` when the life is over."""

    async def announce(self, topic: bytes, numbers: list[int]) -> None:
        """Tell a queue's keeper, or become it, that readers of those numbers wait."""

    async def withdraw(self, topic: bytes, numbers: list[int]) -> None:
        """Tell a queue's keeper, if there is one, that they wait no longer. Afterwards it sends them nothing."""

    async def give_back(self, topic: bytes, messages: list[Stored]) -> None:
        """Return messages to a queue's keeper; if that fails, they are offered again in the next life."""


class _Line:
    """Who waits for one queue."""

    __slots__ = ("asked", "left", "linger", "patience", "returning", "stranded", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[Stored | Exception | None], None] = {}
        """Tasks, longest first; None is the end of the life."""
        self.asked: dict[int, None] = {}
        """The readers that the keeper knows, by their numbers. Whose task is whose does not matter."""
        self.stranded = Store()
        """Messages that came when nobody waited any more."""
        self.returning = False
        """Stranded messages are on their way to the keeper; younger ones must follow, or they would overtake them."""
        self.linger: asyncio.TimerHandle | None = None
        self.left = -inf
        """When a task last went away without a message."""
        self.patience = _LINGER_SECONDS
        """How long the next one is expected: who comes regularly must find what it asked for when it was last here."""

    def come(self) -> None:
        """A task begins to wait."""
        since = monotonic() - self.left
        self.patience = _LINGER_SECONDS if since > _RARELY_SECONDS else max(_LINGER_SECONDS, 2 * since)

    def pop(self) -> Stored | None:
        """The oldest message that is here already."""
        return None if self.returning else self.stranded.pop()

    def serve(self) -> None:
        """Give what is here to those who wait."""
        while (stored := self.pop()) is not None:
            if not self.resolve(stored):
                self.stranded.insert([stored])
                return

    def resolve(self, result: Stored | Exception | None) -> bool:
        """End the waiting of the task that has waited longest; False if none waits."""
        while self.waiting:
            waiter = next(iter(self.waiting))
            del self.waiting[waiter]
            if not waiter.done():
                waiter.set_result(result)
                return True
        return False


class Readers:
    """Takes messages out of queues.

    A reader that is cancelled stays known to the keeper for a moment, and the next one takes its place. So polling
    costs no packets; what comes meanwhile waits here, and then goes back to the keeper.
    """

    def __init__(self, desk: Desk, spawn: Spawn) -> None:
        self._desk = desk
        self._spawn = spawn
        self._numbers = count(1)
        self._lines: dict[bytes, _Line] = {}

    async def take(self, topic: bytes) -> bytes:
        """Wait for the oldest message of a queue."""
        line = self._line(topic)
        given = line.pop() or await self._wait(topic, line)
        if given is None:
            raise ListenerClosed(f"The link broke while a message of queue {to_group(topic)} was awaited")
        if isinstance(given, Exception):
            raise given
        return given.message

    async def _wait(self, topic: bytes, line: _Line) -> Stored | Exception | None:
        waiter: asyncio.Future[Stored | Exception | None] = asyncio.get_running_loop().create_future()
        line.waiting[waiter] = None
        line.come()
        self._ask_for_missing(topic, line)
        try:
            return await waiter
        except BaseException:
            given = waiter.result() if waiter.done() and not waiter.cancelled() else None
            if isinstance(given, Stored):
                self._keep(topic, given)
            line.left = monotonic()
            raise
        finally:
            line.waiting.pop(waiter, None)
            self._begin_linger(topic, line)

    def _line(self, topic: bytes) -> _Line:
        line = self._lines.get(topic)
        if line is None:
            line = self._lines[topic] = _Line()
        return line

    def _ask_for_missing(self, topic: bytes, line: _Line) -> None:
        while len(line.asked) < len(line.waiting):
            number = next(self._numbers)
            line.asked[number] = None
            self._spawn(self._ask(topic, line, number))

    async def _ask(self, topic: bytes, line: _Line, number: int) -> None:
        try:
            await self._desk.announce(topic, [number])
        except ChannelLayerError as error:
            line.asked.pop(number, None)
            # The end of a life is told to all who wait, a refusal to one.
            if isinstance(error, ListenerClosed) or not line.resolve(error):
                raise

    def _keep(self, topic: bytes, stored: Stored) -> None:
        line = self._line(topic)
        line.stranded.insert([stored])
        line.serve()
        self._begin_linger(topic, line)

    # ---- what keepers answer ------------------------------------------------------------------------------------

    def arrive(self, topic: bytes, stored: Stored, number: int) -> None:
        """A message came for a reader. If none is here any more, it waits for the next, or goes back soon."""
        self._line(topic).asked.pop(number, None)
        self._keep(topic, stored)

    def ask_again(self, number: int) -> None:
        """The keeper that knew this reader has left; tell the next one."""
        for topic, line in self._lines.items():
            if number in line.asked:
                self._spawn(self._desk.announce(topic, [number]))

    def remind(self) -> None:
        """Tell all keepers again who waits: one may have died."""
        for topic, line in self._lines.items():
            if line.asked:
                self._spawn(self._desk.announce(topic, list(line.asked)))

    def purge(self, prefix: str) -> None:
        """Throw away the messages of queues whose names begin so."""
        for topic, line in self._lines.items():
            if to_group(topic).startswith(prefix):
                line.stranded.clear()

    # ---- lingering ----------------------------------------------------------------------------------------------

    def _begin_linger(self, topic: bytes, line: _Line) -> None:
        if line.linger is None and len(line.asked) >= len(line.waiting) and self._lines.get(topic) is line:
            loop = asyncio.get_running_loop()
            line.linger = loop.call_later(line.patience, self._end_linger, topic, line)

    def _end_linger(self, topic: bytes, line: _Line) -> None:
        line.linger = None
        surplus = list(line.asked)[len(line.waiting) :]
        for number in surplus:
            del line.asked[number]
        if surplus:
            self._spawn(self._desk.withdraw(topic, surplus))
        if not line.returning:
            if line.stranded:
                self._spawn(self._return(topic, line))
            elif not line.asked:
                self._forget(topic, line)

    def _forget(self, topic: bytes, line: _Line) -> None:
        """Nothing is here; only when somebody was here last is worth remembering for a while."""
        if monotonic() - line.left < _RARELY_SECONDS:
            line.patience = _RARELY_SECONDS
            self._begin_linger(topic, line)
        else:
            del self._lines[topic]

    async def _return(self, topic: bytes, line: _Line) -> None:
        line.returning = True
        try:
            while messages := line.stranded.clear():
                await self._desk.give_back(topic, messages)
        finally:
            line.returning = False
            line.serve()
            self._ask_for_missing(topic, line)
            self._begin_linger(topic, line)

    # ---- the end of a life --------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Tell all keepers that nobody waits here any more."""
        for topic, line in list(self._lines.items()):
            if line.asked:
                await self._desk.withdraw(topic, list(line.asked))

    async def give_all_back(self) -> None:
        """Return all messages that are here to their keepers."""
        for topic, line in list(self._lines.items()):
            await self._return(topic, line)

    def end(self, save: Callable[[bytes, list[Stored]], None]) -> None:
        """The life is over: nobody waits any more; ``save`` gets what is still here."""
        lines, self._lines = self._lines, {}
        for topic, line in lines.items():
            if line.linger is not None:
                line.linger.cancel()
            while line.resolve(None):
                pass
            save(topic, line.stranded.clear())
