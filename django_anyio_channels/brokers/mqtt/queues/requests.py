"""Requests of this node to the owners of queues, repeated until they are replied to."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import Any, NamedTuple

import anyio

from ....core.exceptions import ChannelLayerError, DeliveryUnknown
from ..topics import to_group
from .election import OwnedQueues
from .messaging import ALL_TOPICS_SUBSCRIBED, Message, Messaging, resolve

_REPLY_SECONDS = 10.0
"""How long a reply is waited for. Without one nobody knows whether the request was handled."""


class _PendingRequest(NamedTuple):
    topic: bytes
    """The queue's."""
    message: Message
    reply: asyncio.Future[str | None]
    """The verb of the reply; None at the end of the session."""


class Requests:
    """Sends requests, and receives the replies."""

    def __init__(self, messaging: Messaging, owned_queues: OwnedQueues) -> None:
        self._messaging = messaging
        self._owned_queues = owned_queues
        # A node that starts again under its former name must not repeat the numbers that owners remember.
        self._numbers = count(random.getrandbits(48))
        self._pending: dict[int, _PendingRequest] = {}

    async def send(self, topic: bytes, verb: str, *arguments: Any) -> str:
        """Send a request to a queue's owner, and return the verb of its reply.

        Raises `DeliveryUnknown` if there is no reply.
        """
        number, reply = next(self._numbers), asyncio.get_running_loop().create_future()
        message = Message(verb, self._messaging.node, number, arguments)
        self._pending[number] = _PendingRequest(topic, message, reply)
        try:
            await self._owned_queues.deliver(topic, message)
            with anyio.move_on_after(_REPLY_SECONDS):
                if await reply is not None:
                    return str(reply.result())
        finally:
            del self._pending[number]
        outcome = (
            f"The request to {verb} was sent to the queue {to_group(topic)}, and the connection broke or the queue's "
            f"owner did not reply within {_REPLY_SECONDS:g} s; it may or may not have been handled"
        )
        if await self._messaging.all_topics_subscribed():
            raise ChannelLayerError(f"{outcome}. {ALL_TOPICS_SUBSCRIBED}")
        raise DeliveryUnknown(outcome)

    def repeat(self) -> None:
        """Send all requests without a reply again: an owner may have died."""
        for topic, message, _ in self._pending.values():
            self._messaging.start_soon(self._owned_queues.deliver(topic, message))

    def receive(self, reply: Message) -> None:
        """Take a reply; one that nobody waits for any more is ignored."""
        if reply.number in self._pending:
            resolve(self._pending[reply.number].reply, reply.verb)

    def end(self) -> None:
        """End the waiting of a session that is over."""
        for request in self._pending.values():
            resolve(request.reply, None)
