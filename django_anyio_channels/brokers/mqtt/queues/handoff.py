"""The hand-off of queues: from a node that disconnects to another one, and from one session to the next."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field

from .messaging import ALL_TOPICS_SUBSCRIBED, ENVELOPE_BYTES, Message, Messaging
from .owner import Binding, pack_bindings
from .requests import Requests
from .store import QueuedMessage

logger = logging.getLogger("django_anyio_channels")

_HAND_OFF_BYTES = 256 * 1024
"""Messages in one packet of a hand-off, if the broker takes that."""


@dataclass(slots=True)
class OrphanedQueue:
    """What is left of a queue without an owner."""

    topic: bytes
    messages: list[QueuedMessage]
    bindings: dict[str, Binding] = field(default_factory=dict)

    def first_messages(self, size: int) -> list[QueuedMessage]:
        """Return the first messages, as many as fit into ``size`` bytes; at least one, if there are any."""
        for index, each in enumerate(self.messages):
            size -= len(each.payload) + ENVELOPE_BYTES
            if index and size < 0:
                return self.messages[:index]
        return self.messages


orphaned_queues: dict[tuple[str, str], list[OrphanedQueue]] = {}
"""What no other node took at the end of a session, by the broker's address and the scope.

The next session in this process offers it, of whatever layer and event loop: a program may run one loop after the
other. Every access is one step, so threads may share it.
"""


# A forked child has copies; its parent offers the originals.
os.register_at_fork(after_in_child=orphaned_queues.clear)


class HandOffs:
    """Gives queues to other nodes."""

    def __init__(self, messaging: Messaging, requests: Requests) -> None:
        self._messaging = messaging
        self._requests = requests
        self._key = (messaging.transport.address, messaging.transport.scope)

    async def begin(self) -> None:
        """Give away the queues left over from former sessions."""
        if self._key in orphaned_queues and await self._messaging.all_topics_subscribed():
            text = "The queues left over at %s are offered in its next session. %s"
            logger.error(text, self._messaging.transport.address, ALL_TOPICS_SUBSCRIBED)
        else:
            await self.give(*orphaned_queues.pop(self._key, []))

    async def close(self) -> None:
        """Give every queue of this node to another one."""
        await self._requests.leave()
        for topic in list(self._requests.owners):
            owner = await self._requests.give_up(topic)
            await self.give(OrphanedQueue(topic, owner.store.clear(), owner.bindings))
            for node, number in list(owner.readers):
                await self._requests.deliver(topic, Message("take", node, 0, ([number],)))

    def end(self) -> None:
        """Keep the queues of a session that is over for the next one."""
        for topic, owner in self._requests.owners.items():
            self.save(OrphanedQueue(topic, owner.store.clear(), owner.bindings))
        self._requests.owners.clear()

    def save(self, orphan: OrphanedQueue) -> None:
        """Keep a queue for the next session."""
        if orphan.messages or orphan.bindings:
            orphaned_queues.setdefault(self._key, []).append(orphan)

    async def give(self, *orphans: OrphanedQueue) -> None:
        """Give queues to their owners. What these do not accept is kept for the next session."""
        try:
            # Concurrently: each takes several round trips, and connecting has a time limit.
            for error in await asyncio.gather(*map(self._give, orphans), return_exceptions=True):
                if error is not None:
                    raise error
        finally:
            for orphan in orphans:
                self.save(orphan)

    async def _give(self, orphan: OrphanedQueue) -> None:
        """Give a queue by portions; what was not accepted stays in ``orphan``."""
        topic = orphan.topic
        room = self._messaging.transport.largest_packet - self._messaging.envelope_size(topic)
        if orphan.bindings:
            await self._requests.send(topic, "bind", pack_bindings(orphan.bindings))
            orphan.bindings = {}
        while portion := orphan.first_messages(min(_HAND_OFF_BYTES, room)):
            await self._requests.send(topic, "requeue", [each.pack() for each in portion])
            orphan.messages = orphan.messages[len(portion) :]
