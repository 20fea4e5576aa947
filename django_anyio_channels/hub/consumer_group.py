"""One consumer of a consumer group: a subscriber that has each event fetched for it when it wants one."""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic

import anyio

from ..core.events import Event
from ..core.layer import require_acknowledging
from .line import Line
from .subscriber import Entry, Subscriber, settle


def dead_letters(group: str, consumer_group: str) -> str:
    """The group where the events of a group go that were handed to a consumer group too often."""
    return f"{group}.{consumer_group}.dead"


class Consumer:
    """The sink that a subscriber of a consumer group is attached to its group by.

    What is published wakes it. Nothing is fetched before a reader waits: a slow one keeps nothing from the others.
    """

    def __init__(self, subscriber: Subscriber, line: Line, group: str, consumer_group: str) -> None:
        """Raises `NotSupported`."""
        self._subscriber = subscriber
        self._line = line
        self._layer = require_acknowledging(line.layer)
        self._group = group
        self._consumer_group = consumer_group
        self._fetching: set[anyio.CancelScope] = set()
        subscriber.fetch = self._fetch

    async def join(self) -> None:
        """Have what is published from now on kept for the consumer group."""
        await self._line.insist(lambda: self._layer.join(self._group, self._consumer_group))

    def put(self, entry: Entry) -> None:
        """Something was published."""
        self._layer.look(self._group)

    def close(self) -> None:
        """No more events will come."""
        self._subscriber.close()
        for scope in self._fetching:
            scope.cancel()

    async def _fetch(self) -> None:
        with anyio.CancelScope() as scope:
            self._fetching.add(scope)
            try:
                event = await self._line.outlast(self._take)
            finally:
                self._fetching.discard(scope)
            self._subscriber.put((monotonic(), event))
            settle(event)

    def _take(self) -> Awaitable[Event[bytes]]:
        letters = dead_letters(self._group, self._consumer_group)
        return self._layer.take_event(self._group, self._consumer_group, letters)
