"""Who listens to groups in one event loop without a channel, and reports of missed messages to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from ..core.events import Event
from ..core.exceptions import PositionLost
from ..hub.subscriber import Subscriber
from .messages.closing import CLOSE
from .names import BrokerNames


class Listener:
    """An asynchronous iterator of the events of groups, from `listen`. It ends with the node of the event loop.

    Each event has a ``message``, the ``group`` that it was sent to, and a ``position`` if the broker keeps a history.
    """

    def __init__(self, subscriber: Subscriber, names: BrokerNames, topics: Iterable[str], *, complete: bool) -> None:
        self._subscriber = subscriber
        self._names = names
        self._topics = set(topics)
        self._complete = complete

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Event[dict[str, Any]]:
        """Wait for the next event.

        Raises `SubscriberFull` where that was chosen for a full listener, and `PositionLost` if it began at a position
        and the broker has lost messages since. What came before is returned first.
        """
        while True:
            event = await self._subscriber.__anext__()
            if event.message.get("type") != CLOSE:  # that is for WebSockets
                return Event(self._names.group_of(event.group), event.message, position=event.position)

    def report_missed(self, topic: str | None, message: bytes | None) -> None:
        """Report that messages of a topic or pattern are missing, or of all of them; see `Node.report_missed`."""
        concerned = self._topics if topic is None else self._topics & {topic}
        for each in concerned:
            if self._complete:
                group = self._names.group_of(each)
                self._subscriber.close(PositionLost(f"The broker has lost messages of group {group!r}: begin anew"))
            elif message is not None:
                self._subscriber.put((monotonic(), Event(each, message)))


class Listeners:
    """The listeners of one node."""

    def __init__(self) -> None:
        self._all: set[Listener] = set()

    @contextmanager
    def added(self, listener: Listener) -> Iterator[Listener]:
        """Report to a listener what is missed."""
        self._all.add(listener)
        try:
            yield listener
        finally:
            self._all.discard(listener)

    def report_missed(self, topic: str | None, message: bytes | None) -> None:
        """`Listener.report_missed` for all of them."""
        for listener in self._all:
            listener.report_missed(topic, message)
