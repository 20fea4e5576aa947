"""The way of a request to the owner of its queue, and of the queues of a node that leaves to another one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import anyio

from ....core.exceptions import DeliveryUnknown, ListenerClosed
from ..topics import to_group
from .election import REQUESTS, Elections
from .messaging import Message, Messaging, PartOfTopic, resolve

_SUCCESSORS = b"successors"

_REPLY_SECONDS = 10.0
"""How long a reply is waited for. Without one nobody knows whether the request was handled."""


class _PendingRequest(NamedTuple):
    topic: bytes
    """The queue's."""
    message: Message
    reply: asyncio.Future[str | None]
    """The verb of the reply; None at the end of the session."""


class Requests:
    """Sends requests to the owners of queues, some of which are here."""

    def __init__(self, messaging: Messaging, hand_off: Callable[[bytes], None]) -> None:
        """``hand_off`` gets the queues that this node is to give away."""
        self.elections = Elections(messaging, self._forward, hand_off)
        self._messaging = messaging
        # A node that starts again under its former name must not repeat the numbers that owners remember.
        self._numbers = count(random.getrandbits(48))
        self._pending: dict[int, _PendingRequest] = {}
        self._leaving = False

    async def send(self, topic: bytes, verb: str, *arguments: Any) -> str:
        """Send a request until it is replied to, and return the verb of the reply.

        Raises `DeliveryUnknown` if there is no reply.
        """
        number = next(self._numbers)
        reply: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        message = Message(verb, self._messaging.node, number, arguments)
        self._pending[number] = _PendingRequest(topic, message, reply)
        try:
            await self.deliver(topic, message)
            with anyio.move_on_after(_REPLY_SECONDS):
                if (answer := await reply) is not None:
                    return answer
        finally:
            del self._pending[number]
        raise DeliveryUnknown(
            f"The request to {verb} was sent to the queue {to_group(topic)}, and the connection broke or the queue's "
            f"owner did not reply within {_REPLY_SECONDS:g} s; it may or may not have been handled"
        )

    def repeat(self) -> None:
        """Send all requests without a reply again: an owner may have died."""
        for topic, message, _ in self._pending.values():
            self.elections.ask(topic)
            self._messaging.start_soon(self.deliver(topic, message))
        self.elections.repeat()

    def receive(self, reply: Message) -> None:
        """Take a reply; one that nobody waits for any more is ignored."""
        if reply.number in self._pending:
            resolve(self._pending[reply.number].reply, reply.verb)

    async def deliver(self, topic: bytes, request: Message) -> None:
        """Send a request once. If its queue has no owner, one is elected first.

        Raises `ListenerClosed` if this node leaves and no other one becomes the owner.
        """
        while not self._leaving:
            await self.elections.find_owner(topic)
            if await self._messaging.send(REQUESTS + topic, request):
                return
            self.elections.vacate(topic)
        if self.elections.is_owned(topic) and await self._messaging.send(REQUESTS + topic, request):
            return
        adopt = Message("adopt", self._messaging.node, 0, (topic.decode(), request))
        nobody = f"The queue {to_group(topic)} has no owner, and there is no other node"
        if not await self._messaging.send(_SUCCESSORS, adopt):
            raise ListenerClosed(nobody)
        if not await self.elections.is_adopted(topic):
            raise DeliveryUnknown(f"{nobody} that says so")

    def _forward(self, topic: bytes, request: Message) -> None:
        """Pass on a request that came while the election was undecided, or after it was lost."""
        self._messaging.start_soon(self.deliver(topic, request))

    async def accept_queues(self) -> None:
        """Become the owner of queues whose owner leaves, from now on."""
        verbs = {"adopt": tuple[PartOfTopic, Message]}
        await self._messaging.listen(_SUCCESSORS, verbs, self._adopt, shared=True)

    def _adopt(self, message: Message) -> None:
        topic, request = message.arguments
        self._forward(topic.encode(), request)

    async def leave(self) -> None:
        """Become the owner of no queue any more: other nodes get the requests to those without an owner."""
        await self._messaging.stop_listening(_SUCCESSORS, shared=True)
        self._leaving = True

    def end(self) -> None:
        """End the waiting of a session that is over."""
        for request in self._pending.values():
            resolve(request.reply, None)
        self.elections.end()
