"""`InMemoryChannelLayer`: one event loop's view of an in-memory broker."""

from __future__ import annotations

from collections.abc import Callable

from anyio.lowlevel import checkpoint

from ...core.events import Event, Gap, PublishResult
from ...core.exceptions import NotSupported
from ...core.options import ACKNOWLEDGEMENT_OPTIONS, HISTORY_OPTIONS, check_options, instance_of
from ..common import entries
from ..common.history import HistoryPage, events_after
from .broker import InMemoryBroker
from .deliveries import Work, WorkReaders
from .history import HistoryLimits
from .inbox import Inbox
from .queues import Reader, not_connected
from .verbs import BrokerVerbs

OPTIONS = {
    "broker": instance_of(InMemoryBroker, wanted="an InMemoryBroker").or_none,
    **HISTORY_OPTIONS,
    **ACKNOWLEDGEMENT_OPTIONS,
}

_PUBLISHES_PER_TURN = 16


class InMemoryChannelLayer(BrokerVerbs):
    """Topics, patterns and queues without any broker to install, for one process.

    Any number of threads and event loops may publish, put and take. Layers with the same ``broker`` are connected, also
    across threads. Patterns are shell globs (``*``, ``?``, ``[...]``; `fnmatch`).

    With a ``history_length`` the last messages of each group are kept, so many at most, ``history_bytes`` in all, none
    longer than ``history_age`` seconds; without, no history at all. It ends with the process.

    Subscriptions of a ``consumer_group``, which need a history, share the events of a group: each goes to one of them,
    and one that is not acknowledged within ``redeliver_after`` seconds goes to another. After ``deliver_at_most``
    deliveries it is a dead letter. The same holds for `receive_job`, with a history or without.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        broker: InMemoryBroker | None = None,
        history_length: int = 0,
        history_age: float = 3600.0,
        history_bytes: int = 64 * 1024 * 1024,
        consumer_group: str | None = None,
        redeliver_after: float = 60.0,
        deliver_at_most: int = 5,
    ) -> None:
        if url != "memory://":
            raise ValueError("The in-memory layer has one URL only: memory://")
        check_options(locals(), OPTIONS)
        self.broker: InMemoryBroker = InMemoryBroker() if broker is None else broker
        self.consumer_group = consumer_group
        self.redeliver_after = redeliver_after
        self.deliver_at_most = deliver_at_most
        self._limits = HistoryLimits(history_length, history_age, history_bytes)
        self._publish = self.broker.publish
        self._keep = self.broker.keep_history(self._limits)
        self._inbox: Inbox | None = None
        self._readers: set[Reader] = set()
        self._work = WorkReaders(redeliver_after)
        self._cut_off: Inbox | None = None
        """The last session's, if it was cut off; until the subscriptions are restored."""
        self._published = 0

    @property
    def address(self) -> str:
        return "memory://"

    @property
    def returns_bound_queues(self) -> bool:
        return True

    async def connect(self) -> None:
        self._inbox = Inbox()

    async def disconnect(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            self.broker.disconnect(inbox)
            self._cut_off = None if inbox.open else inbox
            if inbox.open:
                self._work.release_all(self.broker.work)
            inbox.close()
        for reader in self._readers:
            reader.close()

    async def subscribe(self, groups: str) -> None:
        since = self._cut_off.resume_at.pop(groups, None) if self._cut_off is not None else None
        self.broker.subscribe(groups, self._connected(), since)

    async def unsubscribe(self, groups: str) -> None:
        self.broker.unsubscribe(groups, self._connected())

    async def subscribe_pattern(self, pattern: str) -> None:
        inbox = self._connected()
        self.broker.subscribe_pattern(pattern, inbox)
        if self._cut_off is not None and pattern in self._cut_off.patterns:
            self._cut_off.patterns.remove(pattern)
            inbox.emit(Gap(pattern, b"", pattern))

    async def unsubscribe_pattern(self, pattern: str) -> None:
        self.broker.unsubscribe_pattern(pattern, self._connected())

    async def publish(self, group: str, message: bytes) -> PublishResult:
        if self._is_turn_over():
            await checkpoint()
        if self._inbox is None:
            raise not_connected()
        result = self._publish(group, message, self._keep)
        # `Channel` puts into these next. A cancellation must not come in between: some would have the message.
        self._published -= len(result.bound_queues)
        return result

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        self.broker.set_event_handler(self._connected(), handler)

    async def next_published(self) -> Event[bytes]:
        inbox = self._connected()
        while inbox.open:
            if inbox.events:
                return inbox.events.popleft()
            await inbox.notifier.wait()
        raise not_connected()

    @property
    def retention(self) -> float:
        return self._limits.age if self._limits.length else 0.0

    def subscriptions_restored(self) -> bool:
        self._cut_off = None
        return self._limits.length > 0

    def disable_history(self, group: str) -> None:
        self.broker.disable_history(group)

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        self._require_history()
        if since is None:
            return self.broker.latest(group, limit)

        async def read_page(reached: bytes) -> HistoryPage:
            return self.broker.history_page(group, reached)

        return await events_after(group, since, limit, read_page)

    async def position(self, group: str) -> str:
        self._require_history()
        return self.broker.position(group)

    def published_at(self, position: str) -> None:
        """Positions count the messages."""

    def is_after(self, position: str, other: str) -> bool:
        if not self._limits.length:
            raise self._no_history()
        return entries.is_after(position.encode(), other.encode())

    async def join(self, group: str, consumer_group: str) -> None:
        self._require_history()
        self.broker.work.join(Work(group, consumer_group), self.redeliver_after)

    async def receive_event(self, group: str, consumer_group: str) -> Event[bytes]:
        self._require_history()
        return await self._receive(Work(group, consumer_group))

    def notify_published(self, group: str) -> None:
        self.broker.work.notify_published(group)

    async def receive_job(self, queue: str) -> Event[bytes]:
        return await self._receive(Work(queue))

    async def _receive(self, work: Work) -> Event[bytes]:
        inbox = self._connected()
        reader = Reader()
        self._readers.add(reader)
        try:
            return await self._work.receive(self.broker.work, work, reader, inbox.emit)
        finally:
            self._readers.discard(reader)

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        if self._is_turn_over():
            await checkpoint()
        self._connected()
        self.broker.put(queue, message, capacity, expiry)

    async def publish_once(self, group: str, message: bytes, *, key: str, seconds: float) -> PublishResult:
        await checkpoint()
        self._connected()
        return self.broker.publish_once(group, message, key, seconds, self._keep)

    async def put_once(
        self, queue: str, message: bytes, *, capacity: int, expiry: float, key: str, seconds: float
    ) -> None:
        await checkpoint()
        self._connected()
        self.broker.put_once(queue, message, capacity, expiry, key, seconds)

    async def take(self, queue: str) -> bytes:
        self._connected()
        reader = Reader()
        self._readers.add(reader)
        try:
            while (message := self.broker.take_nowait(queue, reader)) is None:
                try:
                    await reader.wait()
                except BaseException:
                    self.broker.stop_waiting(queue, reader)
                    raise
            return message
        finally:
            self._readers.discard(reader)

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        """`publish` from any thread, connected or not."""
        return self._publish(group, message, self._keep)

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """`put` from any thread, connected or not."""
        self.broker.put(queue, message, capacity, expiry)

    def _require_history(self) -> None:
        """Raise `NotSupported` if there is no history, and `ListenerClosed` if there is no session."""
        if not self._limits.length:
            raise self._no_history()
        self._connected()

    def _no_history(self) -> NotSupported:
        return NotSupported(
            "InMemoryChannelLayer keeps no history unless it is asked to: set history_length, for example by "
            "'options': {'history_length': 1000} in CONFIG"
        )

    def _is_turn_over(self) -> bool:
        # A network would suspend the publisher; without it, a busy one would keep the loop from every reader.
        self._published += 1
        if self._published < _PUBLISHES_PER_TURN:
            return False
        self._published = 0
        return True
