"""A layer in memory whose broker wants acknowledgements, and that delivers again only when a test says so."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable
from typing import Any

from anyio.lowlevel import checkpoint

from django_anyio_channels import Event, ListenerClosed

from .scripted import ScriptedLayer


class Acknowledgement:
    """The ack handle of one event; awaiting its release raises ``error``, if there is one."""

    def __init__(self, error: ListenerClosed | None = None) -> None:
        self.holders = 1
        self._error = error

    @property
    def acknowledged(self) -> bool:
        assert self.holders >= 0, "released more often than retained"
        return self.holders == 0

    def retain(self) -> None:
        self.holders += 1

    def release(self) -> Awaitable[None]:
        self.holders -= 1
        return _Released(self._error)


class _Released:
    def __init__(self, error: ListenerClosed | None) -> None:
        self._error = error

    def __await__(self) -> Any:
        if self._error is not None:
            raise self._error
        return (yield from checkpoint().__await__())


class AcknowledgingLayer(ScriptedLayer):
    """A `ScriptedLayer` that supports acknowledgement: a test appends to `pending` what a consumer receives next."""

    consumer_group: str | None = None
    redeliver_after = 60.0
    deliver_at_most = 3

    def __init__(self) -> None:
        super().__init__()
        self.pending: dict[str, deque[Event[bytes]]] = defaultdict(deque)
        """By group or queue."""
        self.joined: list[tuple[str, str]] = []
        self.notified: list[str] = []

    def deliver(self, name: str, message: bytes, *, deliveries: int = 1) -> Acknowledgement:
        """Have the next consumer of a group or a queue receive an event."""
        ack_handle = Acknowledgement()
        self.pending[name].append(Event(name, message, None, ack_handle, None, deliveries))
        self._notify_all()
        return ack_handle

    async def join(self, group: str, consumer_group: str) -> None:
        await self._enter("join", group, consumer_group)
        self.joined.append((group, consumer_group))

    async def receive_event(self, group: str, consumer_group: str) -> Event[bytes]:
        await self._enter("receive_event", group, consumer_group)
        return await self._next(group)

    def notify_published(self, group: str) -> None:
        self.notified.append(group)

    async def receive_job(self, queue: str) -> Event[bytes]:
        await self._enter("receive_job", queue)
        return await self._next(queue)

    async def _next(self, name: str) -> Event[bytes]:
        while not self.pending[name]:
            await self._change()
        return self.pending[name].popleft()
