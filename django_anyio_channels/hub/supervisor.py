"""Keeps one layer connected: one session after another, with the subscriptions restored in each."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import anyio

from ..core.exceptions import ChannelClosed, DeliveryUnknown, ListenerClosed, NotSupported
from ..core.layer import BaseChannelLayer
from ..core.notifier import Notifier, is_asyncio, waiter_type
from ..core.stats import DeliveryStats, RateLimitedLogger
from .encryption import ChannelEncryption
from .session import CHECK_ADDRESS, Backoff, EventHandler, Interruption, Session, logger
from .subscriptions import MarkedReader, SubscriptionRegistry

T = TypeVar("T")


class Supervisor:
    """One broker's layer, its current session and its subscriptions.

    `wait_connected` waits up to ``timeout`` seconds, or ``forever``; ``on_gap`` and ``on_missed`` are `Channel`'s.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        *,
        encryption: ChannelEncryption | None,
        stats: DeliveryStats,
        on_gap: Callable[[float], None] | None,
        on_missed: Callable[[str, float], None] | None,
        timeout: float,
        backoff: Backoff,
        marked: MarkedReader | None = None,
    ) -> None:
        if layer.needs_asyncio and not is_asyncio():
            raise NotSupported(
                f"{type(layer).__name__} runs on asyncio only: use asyncio.run() or anyio.run(backend='asyncio'). "
                f"InMemoryChannelLayer runs on trio, too"
            )
        self.layer = layer
        self.session: Session | None = None
        """The session that is up, or None."""
        self.outages: int = 0
        """How often an established connection was lost."""
        self.subscriptions: SubscriptionRegistry = SubscriptionRegistry(
            layer, self.wait_connected, waiter_type(), self._report_missed, self._report_resubscribed, marked
        )
        deliver = self.subscriptions.deliver
        self._handler = deliver if encryption is None else encryption.decrypt_before(deliver)
        self._deliver = self._handler
        self._stats = stats
        self._on_gap = on_gap
        self._on_missed = on_missed
        self._timeout = timeout
        self._backoff = backoff
        self._connected = Notifier(waiter_type())
        self._down_since: float | None = None
        self._last_outage = 0.0
        self._last_error: ListenerClosed | None = None
        self._closed = False
        self._newest: Session | None = None
        self._interruption: Interruption | None = None
        self._log = RateLimitedLogger()

    async def run(self) -> None:
        """Keep the connection and the subscriptions until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_connected)
            tasks.start_soon(self.subscriptions.prune_unused)
            tasks.start_soon(self.subscriptions.retry_refused, self._backoff.longest)

    def close(self) -> None:
        """Fail all calls that wait for a connection, and close every sink."""
        self._closed = True
        self.session = None
        self._connected.notify_all()
        self.subscriptions.close()

    def interrupt(self, interruption: Interruption | None) -> None:
        """End the session, and fail every attempt to connect until this is called with None."""
        self._interruption = interruption
        if self._newest is not None:
            self._fail_if_interrupted(self._newest)

    def _fail_if_interrupted(self, session: Session) -> None:
        if self._interruption is not None:
            session.fail(ListenerClosed(f"{self.layer.address}: {self._interruption.reason}"))

    def wrap_handler(self, wrap: Callable[[EventHandler], EventHandler] | None) -> None:
        """Have events handled by what ``wrap`` makes of the handler; with None by the handler itself again."""
        self._deliver = self._handler if wrap is None else wrap(self._handler)
        if self._newest is not None:
            self._newest.set_handler(self._deliver)

    # ---- for calls that need the broker ---------------------------------------------------------------------------

    async def wait_connected(self, *, forever: bool = False) -> Session:
        """Return the session that is up. Raises `ListenerClosed` after the timeout, and once closed."""
        if self.session is not None:
            return self.session
        timeout = self._timeout if self._interruption is None else self._interruption.timeout
        with anyio.move_on_after(math.inf if forever else timeout):
            while self.session is None and not self._closed:
                await self._connected.wait()
        if self._closed:
            raise ChannelClosed(f"The Channel to {self.layer.address} is closed")
        if self.session is None:
            # The error of the layer names the cure, and the address as well.
            reason = self._last_error or f"it does not answer. {CHECK_ADDRESS}"
            prefix = f"{self.layer.address}: "
            raise ListenerClosed(
                f"No connection to {self.layer.address} for {timeout:g} s: {str(reason).removeprefix(prefix)}"
            ) from self._last_error
        return self.session

    async def retry(self, call: Callable[[], Awaitable[T]], *, forever: bool = False) -> T:
        """Repeat an idempotent call over lost connections; each wait for a connection is one of `wait_connected`."""
        while True:
            session = await self.wait_connected(forever=forever)
            try:
                return await call()
            except ListenerClosed as error:
                session.fail(error)

    def delivery_unknown(self, session: Session, destination: str, error: ListenerClosed) -> DeliveryUnknown:
        """End a session that broke during a call, and return the error for the sender of the message."""
        session.fail(error)
        return DeliveryUnknown(
            f"The connection to {self.layer.address} broke while a message {destination} was on its way; "
            f"it may or may not have arrived: {error}"
        )

    # ---- sessions -------------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            began = monotonic()
            session = self._newest = Session(self.layer, self._timeout, self._mark_down)
            self._fail_if_interrupted(session)
            await session.run(self._deliver, self._activate)
            self._last_error = session.error
            # A connection that holds only for a moment is no success; an interruption says nothing of the broker.
            is_new = self._interruption is not None or monotonic() - began > 2 * self._backoff.longest
            failures = 0 if is_new else failures + 1
            delay = self._backoff.delay(failures)
            self._log.write(logging.WARNING, "%s; connecting again in %.2f s", session.error, delay)
            await anyio.sleep(delay)

    async def _activate(self, session: Session) -> None:
        await self.subscriptions.restore(session)
        if session.error is not None:
            return
        self.session = session
        session.catches_up = self.layer.subscriptions_restored()
        if self._down_since is not None:
            self._last_outage, self._down_since = self._stats.outages.end(self), None
            if session.catches_up:
                logger.warning("Reconnected to %s after %.2f s", self.layer.address, self._last_outage)
            else:
                self._report_gap(self._last_outage)
        self._connected.notify_all()

    def _mark_down(self, session: Session) -> None:
        if self.session is session:
            self.session = None
            self._down_since = monotonic()
            self.outages += 1
            self._stats.outages.begin(self)

    # ---- reports --------------------------------------------------------------------------------------------------

    @property
    def _outage(self) -> float:
        """For how many seconds the connection has been down, or was the last time."""
        return self._last_outage if self._down_since is None else monotonic() - self._down_since

    def _report_gap(self, seconds: float) -> None:
        logger.warning("Reconnected to %s after %.2f s; messages sent meanwhile were lost", self.layer.address, seconds)
        self._report("on_gap", self._on_gap, seconds)

    def _report_missed(self, group: str, seconds: float | None) -> None:
        if seconds is None:
            seconds = self._outage
            text = "The history of %s does not cover the outage of %s (%.2f s); messages were lost"
        else:
            text = "%s has moved within %s, which took %.2f s; messages sent meanwhile may be lost"
        self._warn_missed(text, group, seconds)

    def _report_resubscribed(self, group: str, seconds: float) -> None:
        text = "The subscription to %s at %s was refused for %.2f s; messages sent meanwhile were lost"
        self._warn_missed(text, group, seconds)

    def _warn_missed(self, text: str, group: str, seconds: float) -> None:
        logger.warning(text, group, self.layer.address, seconds)
        self._report("on_missed", self._on_missed, group, seconds)

    def _report(self, name: str, callback: Callable[..., None] | None, *arguments: object) -> None:
        try:
            if callback is not None:
                callback(*arguments)
        except Exception:
            logger.exception("%s failed", name)
