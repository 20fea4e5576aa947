"""Outages that a test asks for: the open `Channel` of every event loop loses its broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

from ...hub.channel import Channel, interrupt
from ...hub.session import Interruption
from ..process.background_loop import Loop

_SECONDS_TO_BEGIN = 10.0


class Outages:
    """The open Channels of one layer, and whether an outage is in progress."""

    def __init__(self) -> None:
        self.opened: int = 0
        """How many Channels were opened so far."""
        self._channels: dict[Channel, tuple[Loop, int]] = {}
        self._interruption: Interruption | None = None

    @contextmanager
    def of(self, channel: Channel) -> Iterator[None]:
        """Include a Channel of the running event loop during the block."""
        self.opened += 1
        # A forked child must not call into the event loops of its parent.
        self._channels[channel] = asyncio.get_running_loop(), os.getpid()
        # After that: an outage that begins meanwhile finds the Channel, or is found here.
        interrupt(channel, self._interruption)
        try:
            yield
        finally:
            del self._channels[channel]

    @contextmanager
    def during(self, interruption: Interruption) -> Iterator[None]:
        """Have the brokers count as unreachable during the block, in every thread and event loop."""
        previous = self._interruption
        try:
            self._set(interruption)
            yield
        finally:
            self._set(previous)

    def _set(self, interruption: Interruption | None) -> None:
        current = asyncio._get_running_loop()
        begun: list[Future[None]] = []
        self._interruption = interruption
        for channel, (loop, process) in self._channels.copy().items():
            if loop is current:
                interrupt(channel, interruption)
            elif process == os.getpid() and not loop.is_closed():
                future = Future[None]()
                loop.call_soon_threadsafe(_interrupt, channel, interruption, future)
                if loop.is_running():  # one that pauses does this first when it runs again
                    begun.append(future)
        if wait(begun, _SECONDS_TO_BEGIN).not_done:
            raise TimeoutError(f"Something has blocked an event loop of this process for {_SECONDS_TO_BEGIN:g} s")


def _interrupt(channel: Channel, interruption: Interruption | None, done: Future[None]) -> None:
    interrupt(channel, interruption)
    done.set_result(None)
