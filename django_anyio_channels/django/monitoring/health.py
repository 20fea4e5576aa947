"""Whether the channel layer works: round trips through its broker."""

from __future__ import annotations

import asyncio

from ...core.exceptions import ListenerClosed
from ..base import LayerBase


class HealthMethods(LayerBase):
    """What `AnyioChannelLayer` offers health checks."""

    async def ping(self, *, timeout: float | None = None) -> float:
        """Send a message through the broker to this process, and return the seconds until it arrived.

        Of several brokers all must return it. Raises `ListenerClosed` if one cannot be reached or does not return the
        message within ``timeout`` seconds (by default ``publish_timeout``), and `SubscriptionRefused` or
        `PublishRefused` if the broker does not allow it.
        """
        if timeout is None:
            return await self._dispatcher.call(lambda node: node.echo.ping(self._settings.publish_timeout))
        try:
            async with asyncio.timeout(timeout):
                return await self._dispatcher.call(lambda node: node.echo.ping(timeout))
        except TimeoutError:
            raise ListenerClosed(
                f"{', '.join(self.brokers)} could not be reached within {timeout:g} s. Check that the broker runs and "
                f"that the address is right"
            ) from None

    def ping_sync(self) -> float:
        """`ping` for synchronous code."""
        return self._dispatcher.call_sync(lambda node: node.echo.ping(self._settings.publish_timeout))

    @property
    def brokers(self) -> list[str]:
        """The URLs of the brokers, without secrets."""
        return [layer.address for layer in self._settings.make_layers()]
