"""The line to one broker: the link that is kept alive and the subscriptions that are kept on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from ..core.exceptions import ChannelClosed, DeliveryUnknown, ListenerClosed
from ..core.layer import BaseChannelLayer
from ..core.notifier import waiter_factory
from .subscriptions import Topics
from .supervisor import Backoff, Life, Link, logger

T = TypeVar("T")


class Line:
    """What a `Channel` has for each broker; most have one."""

    def __init__(
        self,
        layer: BaseChannelLayer,
        on_gap: Callable[[float], None],
        on_missed: Callable[[str, float], None],
        timeout: float,
        backoff: Backoff,
    ) -> None:
        self.layer = layer
        self.link = Link(layer, on_gap=on_gap, timeout=timeout, backoff=backoff)
        self.topics = Topics(layer, self.link.up, waiter_factory(), self._missed, self._late)
        self._longest_pause = backoff.longest
        self._on_missed = on_missed

    async def run(self) -> None:
        """Keep link and subscriptions until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.link.run, self.topics.deliver, self.topics.restore)
            tasks.start_soon(self.topics.tidy)
            tasks.start_soon(self.topics.ask_again, self._longest_pause)

    def close(self) -> None:
        """Let everyone who waits for the link fail now, and close every sink."""
        self.link.close()
        self.topics.close()

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice until it succeeds, or until there is no link for too long."""
        while True:
            life = await self.link.up()
            try:
                return await call()
            except ListenerClosed as error:
                life.end(error)

    async def outlast(self, call: Callable[[], Awaitable[T]]) -> T:
        """`insist` over any number of outages, until the link is closed."""
        while True:
            try:
                return await self.insist(call)
            except ChannelClosed:
                raise
            except ListenerClosed:
                continue

    def _missed(self, group: str, seconds: float | None) -> None:
        if seconds is None:
            seconds = self.link.outage
            logger.warning(
                "The history of %s does not reach back to where the link to %s was lost, %.2f s long; "
                "what was published meanwhile is lost",
                group,
                self.layer.address,
                seconds,
            )
        else:
            logger.warning(
                "%s has moved within %s, which took %.2f s; what was published meanwhile may be lost",
                group,
                self.layer.address,
                seconds,
            )
        self._report(group, seconds)

    def _late(self, group: str, seconds: float) -> None:
        logger.warning(
            "%s subscribes to %s again after %.2f s; what was published meanwhile is lost",
            self.layer.address,
            group,
            seconds,
        )
        self._report(group, seconds)

    def _report(self, group: str, seconds: float) -> None:
        try:
            self._on_missed(group, seconds)
        except Exception:
            logger.exception("on_missed failed")

    def lost(self, life: Life, what: str, error: ListenerClosed) -> DeliveryUnknown:
        """End a life that broke while a message was on its way; returns what to tell its sender."""
        life.end(error)
        return DeliveryUnknown(
            f"The link to {self.layer.address} broke while a message {what} was on its way; "
            f"it may or may not have arrived: {error}"
        )
