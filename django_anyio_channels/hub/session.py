"""One connection of a layer, from `connect` to `disconnect`, and the backoff between two of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from traceback import format_exception

import anyio
from anyio.lowlevel import checkpoint

from ..core.events import Event
from ..core.exceptions import ListenerClosed, drop_tracebacks
from ..core.layer import BaseChannelLayer

logger: logging.Logger = logging.getLogger("django_anyio_channels")

CHECK_ADDRESS = "Check that the broker runs and that the address is right"
_EVENTS_PER_TURN = 32
_DISCONNECT_SECONDS = 5.0

# A program may have seeded the shared generator; and forked processes must not draw alike.
_random = random.SystemRandom()

EventHandler = Callable[[Event[bytes]], None]


@dataclass(frozen=True, slots=True)
class Interruption:
    """Why a broker counts as unreachable, and how many seconds calls that need it wait meanwhile."""

    reason: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before the next attempt to connect."""

    first: float = 0.05
    longest: float = 1.0

    def delay(self, failures: int) -> float:
        """Double with each failure up to `longest`; half of it is jitter, so that nodes do not return all at once."""
        return min(self.longest, self.first * 2.0 ** min(failures, 30)) * _random.uniform(0.5, 1.0)


class Session:
    """Connects a layer once, reads its events, and disconnects it when the session has failed or is cancelled."""

    def __init__(self, layer: BaseChannelLayer, connect_timeout: float, on_end: Callable[[Session], None]) -> None:
        """``on_end`` is called as soon as the session is over."""
        self.error: ListenerClosed | None = None
        """Why the session is over."""
        self.catches_up: bool | None = None
        """Whether the layer emits what was published while nothing was subscribed; None until `Supervisor` knows."""
        self._layer = layer
        self._timeout = connect_timeout
        self._on_end = on_end
        self._scope = anyio.CancelScope()
        self._handler: EventHandler

    def set_handler(self, handler: EventHandler) -> None:
        """Pass each event to ``handler`` from now on."""
        self._handler = handler
        with suppress(ListenerClosed):  # it is not connected yet, or not any more
            self._layer.set_event_handler(handler)

    def fail(self, error: ListenerClosed) -> None:
        """End the session. The first error wins; later calls are ignored."""
        drop_tracebacks(error)
        if self.error is None:
            self.error = error
            # At once: a caller that tries again must wait for the next session, not meet this one again and again.
            self._on_end(self)
            self._scope.cancel()

    async def run(self, handler: EventHandler, activate: Callable[[Session], Awaitable[None]]) -> None:
        """Connect, pass each event to ``handler``, and return after the end. ``activate`` subscribes what is wanted."""
        self._handler = handler
        try:
            with self._scope:
                if self.error is None and await self._connect():
                    # The reader runs first: on some brokers, acknowledgements of subscriptions come through it.
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._read)
                        await activate(self)
        finally:
            self._on_end(self)
            await self._disconnect()

    async def _connect(self) -> bool:
        try:
            with anyio.fail_after(self._timeout):
                await self._layer.connect()
        except TimeoutError:
            self._fail(
                ListenerClosed(f"{self._layer.address} did not answer within {self._timeout:g} s. {CHECK_ADDRESS}")
            )
        except Exception as error:
            self._fail(error)
        return self.error is None

    async def _read(self) -> None:
        next_published = self._layer.next_published
        try:
            self._layer.set_event_handler(self._handler)
            while True:
                for _ in range(_EVENTS_PER_TURN):
                    event = await next_published()
                    self._handler(event)
                await checkpoint()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, ListenerClosed):
            _log_unexpected(f"in {type(self._layer).__name__}; reconnecting", error)
            closed = ListenerClosed(f"{self._layer.address}: {error!r}")
            closed.__cause__ = error
            error = closed
        self.fail(error)

    async def _disconnect(self) -> None:
        with anyio.move_on_after(_DISCONNECT_SECONDS, shield=True) as scope:
            try:
                await self._layer.disconnect()
            except Exception as error:
                _log_unexpected(f"while disconnecting from {self._layer.address}", error)
        if scope.cancelled_caught:
            logger.error("Disconnecting from %s took more than %g s", self._layer.address, _DISCONNECT_SECONDS)


def _log_unexpected(where: str, error: Exception) -> None:
    # As text: of a traceback, error reports would show the local variables. See `drop_tracebacks`.
    logger.error("Unexpected error %s\n%s", where, "".join(format_exception(error)))
