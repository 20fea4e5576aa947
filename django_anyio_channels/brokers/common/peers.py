"""Delays the first publish after a reconnect until the other nodes of the scope have resubscribed."""

from __future__ import annotations

import asyncio

import anyio


class PeerBarrier:
    """The number of nodes at one server, remembered over the sessions of a layer.

    After a restart of the server all nodes reconnect, one a moment before the other. What the first one published in
    that moment would be lost for the others.
    """

    def __init__(self, timeout: float) -> None:
        """`wait` waits ``timeout`` seconds at most after `start`: some nodes may be gone for good."""
        self.waiting: bool = False
        """Whether other nodes may still be on their way back."""
        self._timeout = timeout
        self._count = 0
        self._expected = 0
        self._deadline = 0.0
        self._complete: asyncio.Event

    def start(self) -> None:
        """Begin a session: expect as many nodes as there were in the last one."""
        self._expected, self._count = max(self._count, self._expected), 0
        self.waiting = self._expected > 1
        self._deadline = asyncio.get_running_loop().time() + self._timeout
        self._complete = asyncio.Event()

    def update(self, count: int) -> None:
        """Set how many nodes there are now, this one included."""
        self._count = count
        if count >= self._expected:
            self.release()

    def release(self) -> None:
        """Let everything pass that waits, and wait no more in this session."""
        self._expected, self.waiting = 0, False
        self._complete.set()

    def end(self) -> None:
        """End the session: let everything pass that waits. The next one expects as many nodes as this one did."""
        self._count = max(self._count, self._expected)
        self.release()

    async def wait(self) -> None:
        """Wait until all expected nodes are back, or the time is up."""
        if self.waiting:
            with anyio.move_on_after(self._deadline - asyncio.get_running_loop().time()):
                await self._complete.wait()
            self.release()
