"""Who is measured: anything with the verbs of a channel layer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

Message = dict[str, Any]

OURS = "ours"
"""What tables and targets call this package's layer."""


class Layer(Protocol):
    """The verbs that are measured."""

    async def send(self, channel: str, message: Message) -> None: ...

    def receive(self, channel: str) -> Coroutine[Any, Any, Message]: ...

    async def new_channel(self) -> str: ...

    async def group_add(self, group: str, channel: str) -> None: ...

    async def group_discard(self, group: str, channel: str) -> None: ...

    async def group_send(self, group: str, message: Message) -> None: ...


@dataclass(frozen=True)
class Connections:
    """What a broker says of its clients."""

    now: int
    """Open now."""
    ever: int
    """Opened since the broker's start."""


async def _nothing(layer: Layer) -> None:
    """Most layers need no closing before their process ends."""


@dataclass(frozen=True)
class Contender:
    """A name in the tables, and how to get a layer of that kind.

    ``make`` is called in each process and thread that needs one; no event loop need be running. ``close`` is awaited
    in the loop that used the layer. ``connections`` asks the broker, if there is one, from outside of what is measured.
    ``moment`` is for a layer whose readers lose what is sent before they have done so many seconds of preparation.
    """

    name: str
    make: Callable[[], Layer]
    close: Callable[[Layer], Awaitable[None]] = _nothing
    connections: Callable[[], Connections] | None = None
    moment: float = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Layer, None]:
        """A layer for the running event loop."""
        layer = self.make()
        try:
            yield layer
        finally:
            await self.close(layer)


def ours(*, connections: Callable[[], Connections] | None = None, **config: Any) -> Contender:
    """This package's `AnyioChannelLayer` with such a ``CONFIG``."""
    from django_anyio_channels import AnyioChannelLayer

    async def close(layer: Layer) -> None:
        await cast(AnyioChannelLayer, layer).close()

    return Contender(OURS, lambda: AnyioChannelLayer(**config), close, connections)
