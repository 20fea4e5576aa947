"""A fake layer that plays a script, and the means to cancel a task at each of its awaits."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from django_anyio_channels import BaseChannelLayer, Event, ListenerClosed

TIME_LIMIT = 30.0
"""Seconds after which a test that waits for something has failed."""


@dataclass
class Silence:
    """A step of a script: nothing happens until ``over`` is set."""

    over: anyio.Event = field(default_factory=anyio.Event)


Step = Event[bytes] | Silence | Exception


class ScriptedLayer(BaseChannelLayer):
    """A broker of its own for one node: what is published to a subscribed name comes back as an event.

    Besides, `next_published` plays the script (an event is returned, an exception raised, a `Silence` waited for),
    `fail` has the next calls of one verb raise, and `hold` has them wait. After a `ListenerClosed` the session is
    over as the contract says: every verb raises it until `connect`.
    """

    def __init__(self, *script: Step, pauses: int = 0) -> None:
        self.script: deque[Step] = deque(script)
        self.calls: list[tuple[str, ...]] = []
        """Every call: the verb and the name it was called with."""
        self.names: set[str] = set()
        """The groups and patterns that are subscribed in this session."""
        self.published: list[tuple[str, bytes]] = []
        """The messages that were accepted, over all sessions."""
        self.open = False
        self.sessions = 0
        self.readers = 0
        """How many tasks are in `next_published`."""
        self.reads_before_subscribe = False
        """`subscribe` waits for a running `next_published`, as where acknowledgements come through the reader."""
        self._pauses = pauses
        self._failures: dict[str, deque[Exception]] = {}
        self._held: dict[str, anyio.Event] = {}
        self._events: deque[Event[bytes]] = deque()
        self._queues: dict[str, deque[bytes]] = {}
        self._changed = anyio.Event()

    @property
    def address(self) -> str:
        return "scripted://fake"

    # ---- the script ---------------------------------------------------------------------------------------------

    def fail(self, verb: str, *errors: Exception) -> None:
        """Have the next calls of ``verb`` raise these."""
        self._failures.setdefault(verb, deque()).extend(errors)

    def hold(self, verb: str) -> Callable[[], None]:
        """Have calls of ``verb`` wait until the returned function is called, or the session ends."""
        held = self._held[verb] = anyio.Event()

        def release() -> None:
            self._held.pop(verb, None)
            held.set()
            self._notify_all()

        return release

    def play(self, *steps: Step) -> None:
        """Append to the script."""
        self.script.extend(steps)
        self._notify_all()

    def count(self, verb: str) -> int:
        """How often ``verb`` was called."""
        return sum(call[0] == verb for call in self.calls)

    # ---- the verbs ----------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        assert not self.open, "connect() in the middle of a session"
        await self._enter("connect")
        self.open = True
        self.sessions += 1

    async def disconnect(self) -> None:
        self._end()
        await self._enter("disconnect")

    async def subscribe(self, groups: str) -> None:
        await self._enter("subscribe", groups)
        while self.reads_before_subscribe and not self.readers:
            await self._change()
        self.names.add(groups)

    async def unsubscribe(self, groups: str) -> None:
        await self._enter("unsubscribe", groups)
        self.names.discard(groups)

    async def subscribe_pattern(self, pattern: str) -> None:
        await self._enter("subscribe_pattern", pattern)
        self.names.add(pattern)

    async def unsubscribe_pattern(self, pattern: str) -> None:
        await self._enter("unsubscribe_pattern", pattern)
        self.names.discard(pattern)

    async def publish(self, group: str, message: bytes) -> int:
        await self._enter("publish", group)
        self.published.append((group, message))
        found = [
            name for name in sorted(self.names) if name == group or (name[-1] == "*" and group.startswith(name[:-1]))
        ]
        self._events.extend(Event(group, message, None if name == group else name) for name in found)
        self._notify_all()
        return len(found)

    async def next_published(self) -> Event[bytes]:
        assert not self.readers, "next_published() has one reader"
        self.readers += 1
        self._notify_all()
        try:
            await self._enter("next_published")
            while True:
                if self._events:
                    return self._events.popleft()
                step = self.script[0] if self.script else None
                if isinstance(step, Event):
                    self.script.popleft()
                    return step
                if isinstance(step, Exception):
                    self.script.popleft()
                    raise self._raised(step)
                if isinstance(step, Silence):
                    await step.over.wait()
                    self.script.popleft()
                else:
                    await self._change()
        finally:
            self.readers -= 1

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        await self._enter("put", queue)
        self._queues.setdefault(queue, deque()).append(message)
        self._notify_all()

    async def take(self, queue: str) -> bytes:
        await self._enter("take", queue)
        while not self._queues.get(queue):
            await self._change()
        return self._queues[queue].popleft()

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        await self._enter("bind", group, queue)

    async def unbind(self, group: str, queue: str) -> None:
        await self._enter("unbind", group, queue)

    async def purge(self, prefix: str) -> None:
        await self._enter("purge", prefix)

    # ---- helpers ------------------------------------------------------------------------------------------------

    async def _enter(self, *call: str) -> None:
        verb = call[0]
        self.calls.append(call)
        for _ in range(self._pauses):
            await checkpoint()
        while verb in self._held:
            await (self._held[verb].wait() if verb in ("connect", "disconnect") else self._change())
        if self._failures.get(verb):
            raise self._raised(self._failures[verb].popleft())
        if verb not in ("connect", "disconnect"):
            self._check_open()

    def _raised(self, error: Exception) -> Exception:
        if isinstance(error, ListenerClosed):
            self._end()
        return error

    async def _change(self) -> None:
        """Wait until anything changes."""
        await self._changed.wait()
        self._check_open()

    def _notify_all(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _end(self) -> None:
        self.open = False
        self.names.clear()
        self._events.clear()
        self._notify_all()

    def _check_open(self) -> None:
        if not self.open:
            raise ListenerClosed(f"{self.address} is not connected")


@types.coroutine
def interrupted(
    coroutine: Coroutine[Any, Any, object], at: int, cancel: Callable[[], None]
) -> Generator[Any, Any, bool]:
    """Run a coroutine and call ``cancel`` when it is suspended for the ``at``-th time, counted from 0.

    Returns whether it ended before that.
    """
    resume: Callable[[Any], Any] = coroutine.send
    value: Any = None
    suspended = 0
    while True:
        try:
            waits_for = resume(value)
        except StopIteration:
            return suspended <= at
        if suspended == at:
            cancel()
        suspended += 1
        try:
            value = yield waits_for
            resume = coroutine.send
        except BaseException as error:  # passed on, whatever it is
            value, resume = error, coroutine.throw


Scenario = Callable[[], Coroutine[Any, Any, object]]
Check = Callable[[], Coroutine[Any, Any, None]]
Everywhere = Callable[[Scenario, Check], Coroutine[Any, Any, int]]
"""One of the two ways below to cancel a scenario everywhere."""


async def cancelled_at_every_await(scenario: Scenario, check: Check) -> int:
    """Run ``scenario`` again and again, cancelled at its first await, its second ... until one run needs no more.

    After each run ``check`` is awaited. Returns the number of runs.
    """
    at = 0
    while True:
        ended = False
        with anyio.CancelScope() as scope:
            ended = await interrupted(scenario(), at, scope.cancel)
        await check()
        if ended:
            return at + 1
        at += 1


async def cancelled_in_every_turn(scenario: Scenario, check: Check) -> int:
    """Like `cancelled_at_every_await`, but cancelled in the first, second ... turn of the event loop.

    So it is also hit when what it waits for has happened already and it has not been resumed yet.
    """
    turns = 0
    while True:
        ended = False

        async def run() -> None:
            nonlocal ended
            await scenario()
            ended = True

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            for _ in range(turns):
                await checkpoint()
            if not ended:
                tasks.cancel_scope.cancel()
        await check()
        if ended:
            return turns + 1
        turns += 1


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until the condition holds."""
    with anyio.fail_after(TIME_LIMIT):
        while not condition():
            await anyio.sleep(0.001)
