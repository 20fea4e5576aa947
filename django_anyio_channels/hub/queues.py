"""The queue verbs of `Channel`, over any number of outages and brokers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from ..core.capabilities import require_acknowledgement
from ..core.events import BoundQueue, Event
from ..core.exceptions import ChannelLayerError, ListenerClosed, NotSupported, QueueFull
from ..core.serializers import MARKER
from ..core.stats import DeliveryStats, RateLimitedLogger
from .consumer_group import DeadLetters
from .encryption import ChannelEncryption
from .sharding import Shards
from .subscriptions import MarkedReader


class Queues:
    """The queues of all brokers; `Channel.queues`."""

    def __init__(
        self,
        shards: Shards,
        stats: DeliveryStats,
        dead_letters: DeadLetters,
        encryption: ChannelEncryption | None,
        marked: MarkedReader | None,
    ) -> None:
        self._shards = shards
        self._stats = stats
        self._dead_letters = dead_letters
        self._encryption = encryption
        self._marked = marked
        if encryption is not None or marked is not None:
            for layer in shards.layers:
                layer.set_reencryption(self._reencrypt)
        self._log = RateLimitedLogger()

    async def put(self, queue: str, payload: bytes, *, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put`; raises `ListenerClosed` and `DeliveryUnknown` as `Channel.publish` does."""
        supervisor = self._shards.of(queue)
        session = supervisor.session or await supervisor.wait_connected()
        if self._encryption is not None:
            payload = self._encryption.for_queue(queue, payload, expiry)
        try:
            await supervisor.layer.put(queue, payload, capacity=capacity, expiry=expiry)
        except ListenerClosed as error:
            raise supervisor.delivery_unknown(session, f"to queue {queue}", error) from error

    def _reencrypt(self, message: bytes, group: str, queue: str, expiry: float) -> bytes | None:
        """`core.layer.Reencryption`."""
        payload = message if self._encryption is None else self._encryption.from_group(message, group)
        found = self._for_bound(payload, queue)
        if found is None or self._encryption is None:
            return found
        return self._encryption.for_queue(queue, found, expiry)

    def _for_bound(self, payload: bytes, queue: str) -> bytes | None:
        if self._marked is None or payload[:1] != MARKER:
            return payload
        return self._marked.for_queue(payload, queue)

    async def put_into_bound(
        self, bound_queues: Iterable[BoundQueue], payload: bytes, put: Callable[..., Awaitable[None]] | None = None
    ) -> None:
        """Put a published message into the queues that are bound to its group; a full one drops it.

        ``put`` takes the place of `put`. Raises `ChannelLayerError` for the first queue that cannot be reached, after
        the others have the message.
        """
        failed: dict[str, ChannelLayerError] = {}
        for queue, capacity, expiry in bound_queues:
            message = self._for_bound(payload, queue)
            if message is None:
                continue
            try:
                await (put or self.put)(queue, message, capacity=capacity, expiry=expiry)
            except QueueFull:
                self._stats.dropped += 1
                self._stats.dropped_queue += 1
                text = "Queue %s is full (capacity %d); dropped a message of its group"
                self._log.write(logging.WARNING, text, queue, capacity)
            except ChannelLayerError as error:
                failed[queue] = error
        for queue, cause in failed.items():
            raise ChannelLayerError(
                f"A message was published, but perhaps not put into queue {queue}, which is bound to its group: {cause}"
            ) from cause

    async def take(self, queue: str) -> bytes:
        """`BaseChannelLayer.take`."""
        supervisor = self._shards.of(queue)
        while True:
            payload = await supervisor.retry(lambda: supervisor.layer.take(queue), forever=True)
            if self._encryption is None:
                return payload
            event = self._encryption.decrypt(Event(queue, payload), "queue")
            if event is not None:
                return event.message

    async def receive_job(self, queue: str, dead_letter_group: str) -> Event[bytes]:
        """`SupportsAcknowledgement.receive_job`; what was delivered too often goes to ``dead_letter_group``."""
        supervisor = self._shards.of(queue)
        layer = require_acknowledgement(supervisor.layer)
        return await self._dead_letters.first_deliverable(
            supervisor, lambda: layer.receive_job(queue), dead_letter_group, "queue"
        )

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        """`BaseChannelLayer.bind`, at the group's broker."""
        supervisor = self._shards.of(group)
        layer = supervisor.layer
        if len(self._shards.layers) > 1 and not layer.returns_bound_queues:
            raise NotSupported(
                f"{type(layer).__name__} cannot bind a group to a queue of another broker, so normal channels cannot "
                f"be in groups; use one broker, or new_channel() names"
            )
        await supervisor.retry(lambda: layer.bind(group, queue, capacity=capacity, expiry=expiry, lifetime=lifetime))

    async def unbind(self, group: str, queue: str) -> None:
        """`BaseChannelLayer.unbind`."""
        supervisor = self._shards.of(group)
        await supervisor.retry(lambda: supervisor.layer.unbind(group, queue))

    async def purge(self, prefix: str) -> None:
        """`BaseChannelLayer.purge`, at every broker."""
        for supervisor in self._shards.all():
            await supervisor.retry(partial(supervisor.layer.purge, prefix))
