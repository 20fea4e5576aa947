"""Messages that are known beforehand, the readers that check each of them, and senders that wait for the readers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .contenders import Layer, Message

WINDOW = 64
"""Messages on their way to one reader: fewer than the smallest capacity that a layer has by default, 100."""
PATIENCE = 60.0
"""Seconds without any progress after which messages count as lost."""
HALF = WINDOW // 2
_TEXT = "A message of about two hundred bytes, as a chat has them. " * 3


class Stalled(Exception):
    """Messages did not arrive."""


def script(senders: int, messages: int) -> list[list[Message]]:
    """What each sender sends: ``messages`` in all, about 200 bytes each when encoded, no two alike."""
    return [
        [{"type": "bench.message", "sender": sender, "number": number, "text": _TEXT} for number in numbers]
        for sender in range(senders)
        for numbers in [range(messages // senders + (sender < messages % senders))]
    ]


CLOSING: Message = {"type": "bench.closing"}
"""Sent after all else has arrived: whatever arrived twice comes before it."""


@dataclass
class Tally:
    """How many deliveries were right: expected by this reader now, from this sender, and equal to what was sent."""

    expected: int = 0
    right: int = 0
    wrong: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.expected + other.expected, self.right + other.right, self.wrong + other.wrong)

    @property
    def lost(self) -> int:
        """Deliveries that never came."""
        return self.expected - self.right

    @property
    def verified(self) -> bool:
        """Whether each expected message came once, whole and in order."""
        return self.right == self.expected and not self.wrong

    def __str__(self) -> str:
        return f"{self.right} of {self.expected} deliveries right, {self.wrong} wrong"


class Slowest:
    """Calls back whenever the slowest of some readers has read another half of a window."""

    def __init__(self, readers: int, callback: Callable[[], object]) -> None:
        self._readers = readers
        self._callback = callback
        self._missing: dict[int, int] = {}

    def read(self, half: int) -> None:
        """A reader has read the half window of this number; each reader reports each number."""
        missing = self._missing.pop(half, self._readers) - 1
        if missing:
            self._missing[half] = missing
        else:
            self._callback()


class Pace:
    """Lets senders be at most `WINDOW` messages ahead of the slowest reader."""

    def __init__(self) -> None:
        self._sent = 0
        self._allowed = WINDOW
        self._moved = asyncio.Event()

    async def turn(self) -> None:
        """Wait until one more may be sent. Raises `Stalled`."""
        while self._sent >= self._allowed:
            self._moved.clear()
            await patiently(self._moved.wait())
        self._sent += 1

    async def all_read(self) -> None:
        """Wait until everyone has read all that was sent: whole half windows, that is. Raises `Stalled`."""
        while self._sent > self._allowed - WINDOW:
            self._moved.clear()
            await patiently(self._moved.wait())

    def allow(self, messages: int = HALF) -> None:
        """So many more may be sent."""
        self._allowed += messages
        self._moved.set()


class Crowd:
    """The members of one group in this event loop; each reads what is expected, and then `CLOSING`.

    ``on_half`` is called when all have read another half of a window, ``on_end`` when all have read everything.
    """

    def __init__(
        self,
        layer: Layer,
        expected: list[list[Message]],
        *,
        on_half: Callable[[], object],
        on_end: Callable[[], object],
    ) -> None:
        self.names: list[str] = []
        self.tally = Tally()
        self._layer = layer
        self._expected = expected
        self._each = sum(map(len, expected))
        self._on_half = on_half
        self._on_end = on_end
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, group: str, members: int) -> None:
        """Make the members and start their readers."""
        halves = Slowest(members, self._on_half)
        ends = Slowest(members, self._on_end)
        for _ in range(members):
            name = await self._layer.new_channel()
            await self._layer.group_add(group, name)
            self.names.append(name)
        self._tasks = [asyncio.create_task(self._read(name, halves, ends)) for name in self.names]
        # All of them wait when the clock starts.
        await asyncio.sleep(0)

    async def leave(self) -> None:
        """Wait until all have read `CLOSING`, and count what they have read. Raises `Stalled`, and their errors."""
        try:
            await patiently(asyncio.gather(*self._tasks))
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Cancel the readers."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _read(self, name: str, halves: Slowest, ends: Slowest) -> None:
        receive = self._layer.receive
        expected = self._expected
        places = [0] * len(expected)
        right = wrong = 0
        self.tally.expected += self._each
        try:
            while (message := await receive(name)) != CLOSING:
                sender = message["sender"]
                place = places[sender]
                if place < len(expected[sender]) and message == expected[sender][place]:
                    places[sender] = place + 1
                    right += 1
                    if right % HALF == 0:
                        halves.read(right // HALF)
                    if right == self._each:
                        ends.read(0)
                else:
                    wrong += 1
                    # After a loss, what follows is right again.
                    places[sender] = message["number"] + 1
        finally:
            self.tally += Tally(0, right, wrong)


async def patiently(what: Awaitable[object]) -> None:
    """Await. Raises `Stalled` after `PATIENCE` seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            await what
    except TimeoutError:
        raise Stalled(f"nothing arrived for {PATIENCE:g} s") from None
