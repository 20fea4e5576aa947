"""The hand-off of queues: from a node that disconnects to another one, and from one session to the next."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from .election import REQUESTS, OwnedQueues
from .messaging import ALL_TOPICS_SUBSCRIBED, ENVELOPE_BYTES, Messaging
from .owner import Binding, pack_bindings
from .protocol import HandOff, encode, read_hand_off
from .requests import Requests
from .store import QueuedMessage

logger = logging.getLogger("django_anyio_channels")

_SUCCESSORS = b"successors"
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


_orphaned_queues: dict[tuple[str, str], list[OrphanedQueue]] = {}
"""What no other node took at the end of a session, by the broker's address and the scope.

The next session in this process offers it, of whatever layer and event loop: a program may run one loop after the
other. Every access is one step, so threads may share it.
"""


def forget_orphaned_queues() -> None:
    """Drop the queues that wait for the next session of this process. For tests, and for forked children."""
    _orphaned_queues.clear()


# A forked child has copies; its parent offers the originals.
os.register_at_fork(after_in_child=forget_orphaned_queues)


class HandOffs:
    """Gives away the queues of this node, and adopts those of others."""

    def __init__(self, messaging: Messaging, owned_queues: OwnedQueues, requests: Requests) -> None:
        self._messaging = messaging
        self._owned_queues = owned_queues
        self._requests = requests
        self._key = (messaging.transport.address, messaging.transport.scope)

    async def begin(self) -> None:
        """Begin a session: adopt the queues of departing nodes, and offer those left over from former sessions."""
        await self._messaging.listen(_SUCCESSORS, read_hand_off, self._on_hand_off, shared=True)
        if self._key in _orphaned_queues and await self._messaging.all_topics_subscribed():
            text = "The queues left over at %s are offered in its next session. %s"
            logger.error(text, self._messaging.transport.address, ALL_TOPICS_SUBSCRIBED)
            return
        orphans = _orphaned_queues.pop(self._key, [])
        # Concurrently: each takes several round trips, and connecting has a time limit.
        offers = [self._give(orphan, self._requests.send) for orphan in orphans]
        try:
            for error in await asyncio.gather(*offers, return_exceptions=True):
                if error is not None:
                    raise error
        finally:
            for orphan in orphans:
                self.save(orphan)

    async def close(self) -> None:
        """Hand every queue of this node to another one."""
        await self._messaging.stop_listening(_SUCCESSORS, shared=True)
        for topic in list(self._owned_queues.owners):
            await self._hand_off(topic)

    def end(self) -> None:
        """Keep the queues of a session that is over for the next one."""
        for topic, owner in self._owned_queues.owners.items():
            self.save(OrphanedQueue(topic, owner.store.clear(), owner.bindings))
        self._owned_queues.owners.clear()

    def save(self, orphan: OrphanedQueue) -> None:
        """Keep a queue for the next session."""
        if orphan.messages or orphan.bindings:
            _orphaned_queues.setdefault(self._key, []).append(orphan)

    async def requeue(self, topic: bytes, messages: list[QueuedMessage]) -> None:
        """Return messages to their queue's owner. If that fails, the next session offers them again."""
        orphan = OrphanedQueue(topic, messages)
        try:
            await self._give(orphan, self._requests.send)
        finally:
            self.save(orphan)

    async def _hand_off(self, topic: bytes) -> None:
        owner = self._owned_queues.owners[topic]
        await self._messaging.stop_listening(REQUESTS + topic, shared=True)
        await owner.close_bindings()
        del self._owned_queues.owners[topic]
        orphan = OrphanedQueue(topic, owner.store.clear(), owner.bindings)
        try:
            for node, number in list(owner.readers):
                await self._messaging.reply(node, number, "retry")
            await self._give(orphan, self._send_to_successor)
        finally:
            self.save(orphan)

    async def _send_to_successor(self, topic: bytes, verb: str, argument: Any) -> str | None:
        number, reply = self._requests.expect_reply()
        if await self._messaging.send(_SUCCESSORS, encode([self._messaging.node, number, topic, verb, argument])):
            return await reply
        return None

    def _on_hand_off(self, hand_off: HandOff) -> None:
        node, number, topic, verb, argument = hand_off

        async def adopt() -> None:
            await self._requests.send(topic, verb, argument)
            await self._messaging.reply(node, number, "ok")

        self._messaging.start_soon(adopt())

    async def _give(self, orphan: OrphanedQueue, send: Callable[[bytes, str, Any], Awaitable[str | None]]) -> None:
        """Give a queue away by portions; what was not accepted stays in ``orphan``."""
        topic = orphan.topic
        room = self._messaging.transport.largest_packet - self._messaging.envelope_size(topic)
        if orphan.bindings and await send(topic, "bind", pack_bindings(orphan.bindings)):
            orphan.bindings = {}
        while portion := orphan.first_messages(min(_HAND_OFF_BYTES, room)):
            if not await send(topic, "requeue", [each.pack() for each in portion]):
                return
            orphan.messages = orphan.messages[len(portion) :]
