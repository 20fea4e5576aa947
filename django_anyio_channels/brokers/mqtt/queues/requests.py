"""Requests of this node to the owners of queues, and the replies that are pending."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import anyio

from ....core.exceptions import ChannelLayerError, DeliveryUnknown
from ..topics import to_group
from .election import REQUESTS, OwnedQueues
from .messaging import ALL_TOPICS_SUBSCRIBED, Messaging, resolve
from .protocol import encode

_REPLY_SECONDS = 10.0
"""How long a reply is waited for. Without one nobody knows whether the request was handled."""

PendingReply = asyncio.Future[str | None]
"""The kind of a reply; None at the end of the session."""


class Requests:
    """Sends requests until they are replied to."""

    def __init__(self, messaging: Messaging, owned_queues: OwnedQueues, prepare: Callable[[], Awaitable[None]]) -> None:
        """``prepare`` is awaited before a request: it subscribes to the replies."""
        self._messaging = messaging
        self._owned_queues = owned_queues
        self._prepare = prepare
        # A node that starts again under its former name must not repeat the numbers that owners remember.
        self._numbers = count(random.getrandbits(48))
        self._pending: dict[int, PendingReply] = {}
        self._repeated: dict[int, tuple[bytes, bytes]] = {}
        """Requests without a reply, and the topics of their queues."""

    def expect_reply(self) -> tuple[int, PendingReply]:
        """Return the number for a request, and its reply."""
        number = next(self._numbers)
        self._pending[number] = asyncio.get_running_loop().create_future()
        return number, self._pending[number]

    async def send(self, topic: bytes, verb: str, *arguments: Any) -> str:
        """Send a request to a queue's owner, and return the kind of its reply.

        Raises `DeliveryUnknown` if there is no reply.
        """
        await self._prepare()
        number, reply = self.expect_reply()
        request = encode([verb, self._messaging.node, number, *arguments])
        self._repeated[number] = topic, request
        try:
            await self._owned_queues.deliver(topic, request)
            with anyio.move_on_after(_REPLY_SECONDS):
                if (kind := await reply) is not None:
                    return kind
        finally:
            del self._pending[number], self._repeated[number]
        outcome = (
            f"The request to {verb} was sent to the queue {to_group(topic)}, and the connection broke or the queue's "
            f"owner did not reply within {_REPLY_SECONDS:g} s; it may or may not have been handled"
        )
        if await self._messaging.all_topics_subscribed():
            raise ChannelLayerError(f"{outcome}. {ALL_TOPICS_SUBSCRIBED}")
        raise DeliveryUnknown(outcome)

    async def add_readers(self, topic: bytes, numbers: list[int]) -> None:
        """Tell a queue's owner that these readers wait."""
        await self._owned_queues.deliver(topic, encode(["take", self._messaging.node, 0, numbers]))

    async def remove_readers(self, topic: bytes, numbers: list[int]) -> None:
        """Tell a queue's owner, if there is one, that these readers wait no longer. Then it sends them nothing more."""
        number, reply = self.expect_reply()
        try:
            if await self._messaging.send(REQUESTS + topic, encode(["stop", self._messaging.node, number, numbers])):
                with anyio.move_on_after(_REPLY_SECONDS):
                    await reply
        finally:
            del self._pending[number]

    def repeat(self) -> None:
        """Send all requests without a reply again: an owner may have died."""
        for topic, request in self._repeated.values():
            self._messaging.start_soon(self._owned_queues.deliver(topic, request))

    def receive(self, number: int, kind: str) -> None:
        """Take a reply; one that nobody waits for any more is ignored."""
        if number in self._pending:
            resolve(self._pending[number], kind)

    def end(self) -> None:
        """End the waiting of a session that is over."""
        for reply in self._pending.values():
            resolve(reply, None)
