"""The hand-off of queues: from a node that disconnects to another one, and from one session to the next."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field

from .messaging import ENVELOPE_BYTES, Message, Messaging
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

    def __init__(self, messaging: Messaging) -> None:
        self.requests = Requests(messaging, lambda topic: messaging.start_soon(self._hand_off(topic)))
        self._messaging = messaging
        self._key = (messaging.transport.address, messaging.transport.scope)

    async def begin(self) -> None:
        """Give away the queues left over from former sessions."""
        orphans = orphaned_queues.pop(self._key, [])
        for orphan in orphans:
            # Of a queue that is empty, too: what is retained of its former owner is replaced.
            self._messaging.start_soon(self.requests.elections.find_owner(orphan.topic))
        await self.give(*orphans)

    async def close(self) -> None:
        """Give every queue of this node to another one."""
        await self.requests.leave()
        hand_offs = map(self._hand_off, list(self.requests.elections.owners))
        for error in await asyncio.gather(*hand_offs, return_exceptions=True):
            if error is not None:
                raise error

    async def _hand_off(self, topic: bytes) -> None:
        """Give a queue that this node owns to another one."""
        owner = await self.requests.elections.give_up(topic)
        if owner is None:
            return
        await self.give(OrphanedQueue(topic, owner.store.clear(), owner.bindings))
        for node, number in owner.readers:
            await self.requests.deliver(topic, Message("take", node, 0, ([number],)))

    def end(self) -> None:
        """Keep the queues of a session that is over for the next one."""
        owners = self.requests.elections.owners
        for topic, owner in owners.items():
            orphan = OrphanedQueue(topic, owner.store.clear(), owner.bindings)
            orphaned_queues.setdefault(self._key, []).append(orphan)
        owners.clear()

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
            await self.requests.send(topic, "bind", pack_bindings(orphan.bindings))
            orphan.bindings = {}
        while portion := orphan.first_messages(min(_HAND_OFF_BYTES, room)):
            await self.requests.send(topic, "requeue", [each.pack() for each in portion])
            orphan.messages = orphan.messages[len(portion) :]
