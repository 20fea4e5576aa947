"""The way of a request to the owner of its queue, and the election of an owner if there is none (``$share``)."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import anyio

from ....core.exceptions import ChannelLayerError, DeliveryUnknown, ListenerClosed
from ..topics import to_group
from .messaging import ALL_TOPICS_SUBSCRIBED, Message, Messaging, PartOfTopic, resolve
from .owner import VERBS, QueueOwner

_REQUESTS = b"queue/"
_CLAIMS = b"claim/"
_SUCCESSORS = b"successors"

_REPLY_SECONDS = 10.0
"""How long a reply is waited for. Without one nobody knows whether the request was handled."""


class _PendingRequest(NamedTuple):
    topic: bytes
    """The queue's."""
    message: Message
    reply: asyncio.Future[str | None]
    """The verb of the reply; None at the end of the session."""


class _Election(NamedTuple):
    first_claim: asyncio.Future[str | None]
    """The node that claimed the queue first; None at the end of the session."""
    task: asyncio.Task[None]


class Requests:
    """Sends requests to the owners of queues, some of which are here."""

    def __init__(self, messaging: Messaging) -> None:
        self.owners: dict[bytes, QueueOwner] = {}
        """The queues that this node owns, by their topics."""
        self._messaging = messaging
        # A node that starts again under its former name must not repeat the numbers that owners remember.
        self._numbers = count(random.getrandbits(48))
        self._pending: dict[int, _PendingRequest] = {}
        self._elections: dict[bytes, _Election] = {}
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
            self._messaging.start_soon(self.deliver(topic, message))

    def receive(self, reply: Message) -> None:
        """Take a reply; one that nobody waits for any more is ignored."""
        if reply.number in self._pending:
            resolve(self._pending[reply.number].reply, reply.verb)

    async def deliver(self, topic: bytes, request: Message) -> None:
        """Send a request once. If its queue has no owner, an election is run first.

        Raises `ListenerClosed` if this node leaves and no other one can become the owner.
        """
        while not await self._messaging.send(_REQUESTS + topic, request):
            if not self._leaving:
                await self._elect(topic)
                continue
            adopt = Message("adopt", self._messaging.node, 0, (topic.decode(), request))
            if not await self._messaging.send(_SUCCESSORS, adopt):
                raise ListenerClosed(f"The queue {to_group(topic)} has no owner, and there is no other node")
            return

    async def _elect(self, topic: bytes) -> None:
        election = self._elections.get(topic)
        if election is None:
            loop = asyncio.get_running_loop()
            first_claim = loop.create_future()
            task = loop.create_task(self._run_election(topic, first_claim))
            election = self._elections[topic] = _Election(first_claim, task)
            task.add_done_callback(partial(self._conclude, topic))
        await asyncio.shield(election.task)

    def _conclude(self, topic: bytes, task: asyncio.Task[None]) -> None:
        del self._elections[topic]
        # Have asyncio not log an error if all waiting callers are gone.
        _ = task.cancelled() or task.exception()

    async def _run_election(self, topic: bytes, first_claim: asyncio.Future[str | None]) -> None:
        """Become the owner if this node's claim comes first; all candidates get the claims in the broker's order.

        A candidate looks for an owner after it has subscribed to claims, and claims after it has subscribed to
        requests. So if two find no owner, each gets the other's claim: the one that looked later would have found the
        other one's subscription to requests.
        """
        messaging, node = self._messaging, self._messaging.node
        claims, requests = _CLAIMS + topic, _REQUESTS + topic
        await messaging.listen(claims, {"claim": tuple[()]}, lambda claim: resolve(first_claim, claim.node))
        try:
            if await messaging.send(requests, Message("probe", node, 0, ())):
                return
            await messaging.listen(requests, VERBS, partial(self._receive_request, topic), shared=True)
            try:
                await messaging.send(claims, Message("claim", node, 0, ()))
                if await first_claim == node:
                    self.owners[topic] = QueueOwner(topic, messaging)
            finally:
                if topic not in self.owners:
                    await messaging.stop_listening(requests, shared=True)
        finally:
            await messaging.stop_listening(claims)

    def _receive_request(self, topic: bytes, request: Message) -> None:
        if topic in self.owners:
            self.owners[topic].handle(request)
        else:
            self._messaging.start_soon(self._forward(topic, request))

    async def _forward(self, topic: bytes, request: Message) -> None:
        """Pass on a request that came while the election was undecided, or after it was lost."""
        if topic in self._elections:
            await self._elect(topic)
        await self.deliver(topic, request)

    async def accept_queues(self) -> None:
        """Become the owner of queues whose owner leaves, from now on."""
        verbs = {"adopt": tuple[PartOfTopic, Message]}
        await self._messaging.listen(_SUCCESSORS, verbs, self._adopt, shared=True)

    def _adopt(self, message: Message) -> None:
        topic, request = message.arguments
        self._messaging.start_soon(self.deliver(topic.encode(), request))

    async def leave(self) -> None:
        """Become the owner of no queue any more: other nodes get the requests to those without an owner."""
        await self._messaging.stop_listening(_SUCCESSORS, shared=True)
        self._leaving = True

    async def give_up(self, topic: bytes) -> QueueOwner:
        """Own a queue no more. Returns its former owner, which gets nothing more."""
        await self._messaging.stop_listening(_REQUESTS + topic, shared=True)
        await self.owners[topic].close_bindings()
        return self.owners.pop(topic)

    def end(self) -> None:
        """End the waiting of a session that is over."""
        for request in self._pending.values():
            resolve(request.reply, None)
        for election in self._elections.values():
            resolve(election.first_claim, None)
