"""Probe an idle connection, and fail a silent one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Watches one connection from `start` to `stop`.

    A timer ticks ``ticks`` times in ``probe_interval`` seconds. After ``probe_after`` ticks between which nothing came
    the connection is probed; at the last tick within ``probe_interval`` since something came it has failed. It counts
    ticks, not time: while the event loop was blocked, an answer may wait unread.
    """

    def __init__(
        self,
        probe_interval: float,
        probe: Callable[[], object],
        fail: Callable[[str], object],
        *,
        always_probe: bool = False,
        ticks: int = 4,
        probe_after: int = 1,
    ) -> None:
        """``probe`` sends something that is answered; ``fail`` is called once, with the reason.

        With ``always_probe`` a busy connection is probed at every other tick, too: the peer wants to receive
        something.
        """
        self._ticks_per_interval = ticks
        self._probe_after = probe_after
        self._probe_interval = probe_interval
        self._probe = probe
        self._fail = fail
        self._always_probe = always_probe
        self._ticks = 0
        self._missed_ticks = 0
        self.received: bool = True
        """To be set when data came: the peer is alive, or our side has not read."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._probe_interval / self._ticks_per_interval, self._tick)

    def _tick(self) -> None:
        self._missed_ticks = 0 if self.received else self._missed_ticks + 1
        self.received = False
        self._ticks += 1
        if self._missed_ticks >= self._ticks_per_interval - 1:
            self._timer = None
            self._fail(f"no answer for {self._probe_interval:g} s (probe_interval)")
            return
        self._schedule()
        if self._missed_ticks == self._probe_after or (self._always_probe and self._ticks % 2 == 0):
            self._probe()
