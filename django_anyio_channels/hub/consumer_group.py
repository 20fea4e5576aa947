"""Acknowledged delivery: consumers that fetch an event when they want one, and dead letters."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

import anyio
from anyio.abc import TaskGroup

from ..core.capabilities import SupportsAcknowledgement, require_acknowledgement
from ..core.encryption import Kind
from ..core.events import Event
from ..core.exceptions import ChannelLayerError
from ..core.stats import DeliveryStats, RateLimitedLogger
from .encryption import ChannelEncryption
from .subscriber import Subscriber, Timestamped, release
from .supervisor import Supervisor

_KEPT_UNASKED = 86400.0
"""Seconds for which a broker keeps an event that was delivered, not acknowledged, and that no consumer asks for."""


def dead_letter_group(group: str, consumer_group: str) -> str:
    """The group that gets the events of a group that were delivered to a consumer group too often."""
    return f"{group}.{consumer_group}.dead"


def shared_by(
    layer: object, consumer_group: str | None, groups: tuple[str, ...], pattern: str | None, since: str | None
) -> str | None:
    """Return the consumer group of a subscription, if it has one. Raises `TypeError` if it cannot have it."""
    if not consumer_group:
        consumer_group = layer.consumer_group if isinstance(layer, SupportsAcknowledgement) else None
    if consumer_group is not None and (len(groups) != 1 or pattern is not None or since is not None):
        raise TypeError(
            f"The consumers of {consumer_group!r} share one group; subscribe to each group by itself, without "
            f"pattern and since, or without a consumer group through another Channel"
        )
    return consumer_group


class DeadLetters:
    """Publishes what was delivered too often, instead of delivering it once more."""

    def __init__(
        self,
        publish: Callable[[str, bytes], Awaitable[object]],
        encryption: ChannelEncryption | None,
        stats: DeliveryStats,
    ) -> None:
        self.tasks: TaskGroup
        """Runs the publishing. Set it before the first call."""
        self._publish = publish
        self._encryption = encryption
        self._stats = stats
        self._log = RateLimitedLogger()

    async def first_deliverable(
        self, supervisor: Supervisor, fetch: Callable[[], Awaitable[Event[bytes]]], group: str, kind: Kind
    ) -> Event[bytes]:
        """Fetch, over any number of outages, until an event may be delivered; publish those before it to ``group``."""
        layer = require_acknowledgement(supervisor.layer)
        while True:
            event = self._decrypt(await supervisor.retry(fetch, forever=True), layer, kind)
            if event is None:
                continue
            if event.deliveries <= layer.deliver_at_most:
                return event
            # In a task of its own: a reader that polls with a time limit must not interrupt it each time.
            done = anyio.Event()
            self.tasks.start_soon(self._publish_and_release, event, group, done)
            await done.wait()

    def _decrypt(self, event: Event[bytes], layer: SupportsAcknowledgement, kind: Kind) -> Event[bytes] | None:
        if self._encryption is None:
            return event
        # What a consumer has returned unread counts as its first delivery again.
        late = layer.redeliver_after * layer.deliver_at_most + (_KEPT_UNASKED if event.deliveries > 1 else 0.0)
        return self._encryption.decrypt(event, kind, late)

    async def _publish_and_release(self, event: Event[bytes], group: str, done: anyio.Event) -> None:
        try:
            await self._publish(group, event.message)
            await event.ack()
        except Exception as error:
            trace = None if isinstance(error, ChannelLayerError) else error
            text = "A message of %s cannot be sent to the dead letters, and is delivered again: %s"
            self._log.write(logging.ERROR, text, event.group, error, exc_info=trace)
        else:
            self._stats.dead_letters += 1
            text = "A message of %s was delivered %d times without being acknowledged; it is now a dead letter in %s"
            self._log.write(logging.ERROR, text, event.group, event.deliveries - 1, group)
        finally:
            done.set()


@dataclass(slots=True, eq=False)
class ConsumerGroupSink:
    """The sink of a subscriber in a consumer group; to create one raises `NotSupported` if the layer has none.

    A publish wakes it. It fetches an event only when a reader waits, so a slow reader keeps none from the others.
    """

    subscriber: Subscriber
    supervisor: Supervisor
    group: str
    consumer_group: str
    dead_letters: DeadLetters
    _layer: SupportsAcknowledgement = field(init=False)
    _fetching: set[anyio.CancelScope] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._layer = require_acknowledgement(self.supervisor.layer)
        self.subscriber.fetch_next = self._fetch_next

    async def join(self) -> None:
        """Keep what is published from now on for the consumer group."""
        await self.supervisor.retry(lambda: self._layer.join(self.group, self.consumer_group))

    def put(self, entry: Timestamped) -> None:
        """Take the news that something was published."""
        self._layer.notify_published(self.group)

    def close(self) -> None:
        """Called when no more events will come."""
        self.subscriber.close()
        for scope in self._fetching:
            scope.cancel()

    async def _fetch_next(self) -> None:
        with anyio.CancelScope() as scope:
            self._fetching.add(scope)
            try:
                event = await self.dead_letters.first_deliverable(
                    self.supervisor,
                    lambda: self._layer.receive_event(self.group, self.consumer_group),
                    dead_letter_group(self.group, self.consumer_group),
                    "group",
                )
            finally:
                self._fetching.discard(scope)
            self.subscriber.put((monotonic(), event))
            release(event)
