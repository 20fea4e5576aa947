"""`InMemoryChannelLayer`: one event loop's view of an in-memory broker."""

from __future__ import annotations

from collections.abc import Callable

from anyio.lowlevel import checkpoint

from ...core.events import Event, PublishResult
from ...core.exceptions import ListenerClosed
from ...core.inspection import Finding, QueueState
from ...core.layer import BaseChannelLayer
from ...core.options import check_option, instance_of
from .broker import Inbox, InMemoryBroker, Reader

_PUBLISHES_PER_TURN = 16


class InMemoryChannelLayer(BaseChannelLayer):
    """Topics, patterns and queues without any broker to install, for one process.

    Any number of threads and event loops may publish, put and take. Layers with the same ``broker`` are connected, also
    across threads. Patterns are shell globs (``*``, ``?``, ``[...]``; `fnmatch`).
    """

    def __init__(self, url: str = "memory://", *, broker: InMemoryBroker | None = None) -> None:
        if url != "memory://":
            raise ValueError("The in-memory layer has one URL only: memory://")
        check_option("broker", broker, instance_of(InMemoryBroker, wanted="an InMemoryBroker").or_none)
        self.broker = InMemoryBroker() if broker is None else broker
        self._inbox: Inbox | None = None
        self._readers: set[Reader] = set()
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
            inbox.close()
        for reader in self._readers:
            reader.wake()

    async def subscribe(self, groups: str) -> None:
        self.broker.subscribe(groups, self._connected())

    async def unsubscribe(self, groups: str) -> None:
        self.broker.unsubscribe(groups, self._connected())

    async def subscribe_pattern(self, pattern: str) -> None:
        self.broker.subscribe_pattern(pattern, self._connected())

    async def unsubscribe_pattern(self, pattern: str) -> None:
        self.broker.unsubscribe_pattern(pattern, self._connected())

    async def publish(self, group: str, message: bytes) -> PublishResult:
        if self._is_turn_over():
            await checkpoint()
        self._connected()
        result = self.broker.publish(group, message)
        # `Channel` puts into these next. A cancellation must not come in between: some would have the message.
        self._published -= len(result.bound_queues)
        return result

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:
        self._connected().handler = handler

    async def next_published(self) -> Event[bytes]:
        inbox = self._connected()
        while inbox.open:
            if inbox.events:
                return inbox.events.popleft()
            await inbox.notifier.wait()
        raise _not_connected()

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        if self._is_turn_over():
            await checkpoint()
        self._connected()
        self.broker.put(queue, message, capacity, expiry)

    async def take(self, queue: str) -> bytes:
        inbox = self._connected()
        reader = Reader()
        self._readers.add(reader)
        try:
            while (message := self.broker.take_nowait(queue, reader)) is None:
                try:
                    await reader.notifier.wait()
                    if self._inbox is not inbox:
                        raise _not_connected()
                except BaseException:
                    self.broker.stop_waiting(queue, reader)
                    raise
            return message
        finally:
            self._readers.discard(reader)

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        self._connected()
        self.broker.bind(group, queue, capacity, expiry, lifetime)

    async def unbind(self, group: str, queue: str) -> None:
        self._connected()
        self.broker.unbind(group, queue)

    async def purge(self, prefix: str) -> None:
        self._connected()
        self.broker.purge(prefix)

    @property
    def queues_are_at_nodes(self) -> bool:
        """See `SupportsInspection`."""
        return False

    async def inspect_queues(self, prefix: str, limit: int) -> list[QueueState]:
        self._connected()
        return self.broker.inspect_queues(prefix, limit)

    async def diagnose(self, largest_message: int) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        self._connected()
        text = "memory:// carries messages within one process, so this command sees nothing of the others"
        cure = "Where several processes serve one site, name a broker that they share, such as redis://localhost:6379"
        return [Finding("warning", text, cure)]

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        """`publish` from any thread, connected or not."""
        return self.broker.publish(group, message)

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """`put` from any thread, connected or not."""
        self.broker.put(queue, message, capacity, expiry)

    def _connected(self) -> Inbox:
        if self._inbox is None:
            raise _not_connected()
        return self._inbox

    def _is_turn_over(self) -> bool:
        # A network would suspend the publisher; without it, a busy one would keep the loop from every reader.
        self._published += 1
        if self._published < _PUBLISHES_PER_TURN:
            return False
        self._published = 0
        return True


def _not_connected() -> ListenerClosed:
    return ListenerClosed("memory:// is not connected; use the layer through a Channel, or connect() it first")
