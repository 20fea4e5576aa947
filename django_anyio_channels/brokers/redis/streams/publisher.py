"""Publishing to groups that have a history: what is said to one group at the same time goes in one call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial

import hiredis

from ....core.exceptions import ListenerClosed
from ..session import Life, checked
from .history import History, Published

_MOST_MESSAGES = 100
"""In one call: the server does nothing else meanwhile."""
_MOST_BYTES = 64 * 1024
"""In one call, unless it is one message."""

Outcome = Published | hiredis.ReplyError


class Publisher:
    """What one life publishes to groups that have a history.

    Who is alone is sent at once. What is said to a group while a call for it is under way goes together in the next,
    when the server has answered or no more fits in.
    """

    def __init__(self, history: History, life: Life) -> None:
        self._history = history
        self._life = life
        self._under_way: Counter[bytes] = Counter()
        """How many calls for a group the server has not answered."""
        self._collected: dict[bytes, _Collected] = {}
        self._in_company = False
        """Whether the last call was for several: who comes next waits a turn of the event loop for others."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, group: bytes, message: bytes) -> Published:
        """Keep a message and publish it, both or neither. Raises `ListenerClosed`, or what the server refuses."""
        if self._in_company or group in self._under_way or group in self._collected:
            outcome = await self._collect(group, message)
        else:
            (outcome,) = await self._call(group, [message])
        published: Published = checked(self._life, outcome)
        return published

    async def _call(self, group: bytes, messages: list[bytes]) -> list[Outcome]:
        self._in_company = len(messages) > 1
        self._under_way[group] += 1
        try:
            return await self._history.publish(self._life, group, messages)
        finally:
            self._under_way[group] -= 1
            if not self._under_way[group]:
                del self._under_way[group]
                if group in self._collected:
                    self._collected[group].leaving.set()

    def _collect(self, group: bytes, message: bytes) -> asyncio.Future[Outcome]:
        collected = self._collected.get(group)
        if collected is None or not collected.has_room_for(message):
            if collected is not None:
                collected.leaving.set()
            collected = self._collected[group] = _Collected()
            self._begin(group, collected)
            if group not in self._under_way:
                collected.leaving.set()
        return collected.add(message)

    def _begin(self, group: bytes, collected: _Collected) -> None:
        task = asyncio.create_task(self._call_for(group, collected))
        self._tasks.add(task)
        task.add_done_callback(partial(self._over, group, collected))

    def _over(self, group: bytes, collected: _Collected, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            return
        # Who ends an event loop cancels each task, this one too. Some publish only then, to say good bye.
        if self._collected.get(group) is collected:
            del self._collected[group]
        waiting = collected.waiting()
        if collected.has_left:
            _refuse(waiting, ListenerClosed("the task that published was cancelled"))
        elif waiting:
            collected.leaving.set()
            self._begin(group, collected)

    async def _call_for(self, group: bytes, collected: _Collected) -> None:
        await collected.leaving.wait()
        if self._collected.get(group) is collected:
            del self._collected[group]
        collected.has_left = True
        waiting = collected.waiting()
        if not waiting:
            return
        try:
            outcomes = await self._call(group, list(waiting.values()))
        except Exception as error:
            _refuse(waiting, error)
        else:
            for future, outcome in zip(waiting, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)


class _Collected:
    """What is to go in one call."""

    def __init__(self) -> None:
        self.messages: dict[asyncio.Future[Outcome], bytes] = {}
        self.leaving = asyncio.Event()
        """Set when no more is to be added."""
        self.has_left = False
        self._bytes = 0

    def has_room_for(self, message: bytes) -> bool:
        return len(self.messages) < _MOST_MESSAGES and self._bytes + len(message) <= _MOST_BYTES

    def add(self, message: bytes) -> asyncio.Future[Outcome]:
        """The future gives what the server says of it."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.messages[future] = message
        self._bytes += len(message)
        return future

    def waiting(self) -> dict[asyncio.Future[Outcome], bytes]:
        """What was added, but for that of whoever was cancelled meanwhile: who has said nothing."""
        return {future: message for future, message in self.messages.items() if not future.done()}


def _refuse(waiting: Iterable[asyncio.Future[Outcome]], error: Exception) -> None:
    for future in waiting:
        if not future.done():
            future.set_exception(error)
