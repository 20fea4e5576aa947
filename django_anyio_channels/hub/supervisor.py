"""Keeps one layer alive: connects, reads, restores the subscriptions, and begins again when a life ends."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

import anyio
from anyio.lowlevel import checkpoint

from ..core.events import Event
from ..core.exceptions import ChannelClosed, ListenerClosed
from ..core.layer import BaseChannelLayer
from ..core.notifier import Bell, waiter_factory
from ..core.stats import BoundedLog

logger = logging.getLogger("django_anyio_channels")

_EVENTS_PER_TURN = 32
_DISCONNECT_SECONDS = 5.0

# A program may have seeded the one that all share; and forked processes must not draw alike.
_random = random.SystemRandom()


Deliver = Callable[[Event[bytes]], None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt to connect, in seconds."""

    first: float = 0.05
    longest: float = 1.0

    def delay(self, failures: int) -> float:
        """Doubles with each failure up to `longest`; between half and all of it, so that nodes come back apart."""
        return min(self.longest, self.first * 2.0 ** min(failures, 30)) * _random.uniform(0.5, 1.0)


class Life:
    """One connection's life, from connect to disconnect."""

    def __init__(self, on_end: Callable[[Life], None]) -> None:
        self.scope = anyio.CancelScope()
        self.error: ListenerClosed | None = None
        self.catches_up: bool | None = None
        """Whether its layer hands out what was published while nothing was subscribed to; None until it is up."""
        self._on_end = on_end

    def end(self, error: ListenerClosed) -> None:
        """Whoever meets the dead connection first ends the life; the first reason is kept."""
        if self.error is None:
            self.error = error
            # At once: whoever tries again must wait for the next life, not meet this one again and again.
            self._on_end(self)
            self.scope.cancel()


Restore = Callable[[Life], Awaitable[None]]


class Link:
    """One layer, supervised.

    `up` waits for ``timeout`` seconds at most. ``on_gap`` is called with the seconds for which an established link was
    down.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        *,
        on_gap: Callable[[float], None],
        timeout: float,
        backoff: Backoff,
    ) -> None:
        self.life: Life | None = None
        """The life that is up, or None."""
        self.outages = 0
        """How often an established link was lost."""
        self._layer = layer
        self._on_gap = on_gap
        self._timeout = timeout
        self._backoff = backoff
        self._came_up = Bell(waiter_factory())
        self._down_since: float | None = None
        self._last_outage = 0.0
        self._last_error: ListenerClosed | None = None
        self._closed = False
        self._log = BoundedLog()

    @property
    def outage(self) -> float:
        """For how many seconds the link has been down, or was the last time."""
        return self._last_outage if self._down_since is None else monotonic() - self._down_since

    async def up(self) -> Life:
        """Wait for a life that is up. Raises `ListenerClosed` after the timeout, or when the link is closed."""
        if self.life is not None:
            return self.life
        with anyio.move_on_after(self._timeout):
            while self.life is None and not self._closed:
                await self._came_up.wait()
        if self._closed:
            raise ChannelClosed(f"The Channel to {self._layer.address} is closed")
        if self.life is None:
            reason = self._last_error or "it does not answer"
            raise ListenerClosed(
                f"No link to {self._layer.address} for {self._timeout:g} s ({reason}). "
                f"Check that the broker runs and that the address is right"
            ) from self._last_error
        return self.life

    async def run(self, deliver: Deliver, restore: Restore) -> None:
        """Live one life after another until cancelled.

        ``deliver`` is called with each event, ``restore`` with each new life before `up` returns it: it subscribes
        what is wanted.
        """
        failures = 0
        while True:
            began = monotonic()
            life = Life(self._lower)
            await self._live(life, deliver, restore)
            self._last_error = life.error
            # A link that holds only for a moment is no success.
            failures = 0 if monotonic() - began > 2 * self._backoff.longest else failures + 1
            delay = self._backoff.delay(failures)
            self._log.write(logging.WARNING, "%s; connecting again in %.2f s", life.error, delay)
            await anyio.sleep(delay)

    def close(self) -> None:
        """Let everyone who waits for the link fail now."""
        self._closed = True
        self.life = None
        self._came_up.ring_all()

    async def _live(self, life: Life, deliver: Deliver, restore: Restore) -> None:
        try:
            with life.scope:
                if await self._connect(life):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._read, life, deliver)
                        await self._begin(life, restore)
        finally:
            self._lower(life)
            await self._disconnect()

    def _lower(self, life: Life) -> None:
        if self.life is life:
            self.life = None
            self._down_since = monotonic()
            self.outages += 1

    async def _connect(self, life: Life) -> bool:
        try:
            with anyio.fail_after(self._timeout):
                await self._layer.connect()
        except TimeoutError:
            self._end(life, ListenerClosed(f"{self._layer.address} did not answer within {self._timeout:g} s"))
        except Exception as error:
            self._end(life, error)
        return life.error is None

    async def _read(self, life: Life, deliver: Deliver) -> None:
        next_published = self._layer.next_published
        try:
            self._layer.deliver_at_once(deliver)
            while True:
                for _ in range(_EVENTS_PER_TURN):
                    deliver(await next_published())
                await checkpoint()
        except Exception as error:
            self._end(life, error)

    async def _begin(self, life: Life, restore: Restore) -> None:
        await restore(life)
        if life.error is not None:
            return
        self.life = life
        life.catches_up = self._layer.restored()
        if self._down_since is not None:
            self._last_outage, self._down_since = self.outage, None
            if life.catches_up:
                logger.warning("%s is back after %.2f s", self._layer.address, self._last_outage)
            else:
                self._report(self._last_outage)
        self._came_up.ring_all()

    def _report(self, gap: float) -> None:
        logger.warning("%s is back after %.2f s; what was published meanwhile is lost", self._layer.address, gap)
        try:
            self._on_gap(gap)
        except Exception:
            logger.exception("on_gap failed")

    def _end(self, life: Life, error: Exception) -> None:
        if not isinstance(error, ListenerClosed):
            logger.error("Unexpected error of %s; starting afresh", type(self._layer).__name__, exc_info=error)
            closed = ListenerClosed(f"{self._layer.address}: {error!r}")
            closed.__cause__ = error
            error = closed
        life.end(error)

    async def _disconnect(self) -> None:
        with anyio.move_on_after(_DISCONNECT_SECONDS, shield=True) as scope:
            try:
                await self._layer.disconnect()
            except Exception:
                logger.exception("Unexpected error while disconnecting from %s", self._layer.address)
        if scope.cancelled_caught:
            logger.error("%s did not let itself be disconnected within %g s", self._layer.address, _DISCONNECT_SECONDS)
