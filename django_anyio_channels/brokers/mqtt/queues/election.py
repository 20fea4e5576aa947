"""The queues that this node owns, and the elections in which it becomes their owner (shared subscriptions)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from ....core.exceptions import ListenerClosed
from ..topics import to_group
from .messaging import Message, Messaging, PartOfTopic, resolve
from .owner import VERBS, QueueOwner

REQUESTS = b"queue/"
_CLAIMS = b"claim/"
_SUCCESSORS = b"successors"


@dataclass(slots=True)
class _Election:
    """An attempt to become a queue's owner."""

    first_claim: asyncio.Future[str | None]
    """The node that claimed the queue first; None at the end of the session."""
    task: asyncio.Task[None] = field(init=False)
    undecided: bool = True
    buffered: list[Message] = field(default_factory=list)
    """Requests that came while it was undecided."""


class OwnedQueues:
    """Delivers requests to the owners of queues, some of which are here."""

    def __init__(self, messaging: Messaging) -> None:
        self.owners: dict[bytes, QueueOwner] = {}
        """By the queue's topic."""
        self._messaging = messaging
        self._elections: dict[bytes, _Election] = {}
        self._leaving = False

    async def accept_queues(self) -> None:
        """Begin to become the owner of queues whose owner leaves."""
        verbs = {"adopt": tuple[PartOfTopic, Message]}
        await self._messaging.listen(_SUCCESSORS, verbs, self._adopt, shared=True)

    async def leave(self) -> None:
        """Become the owner of no queue any more. From now on another node gets what has no owner."""
        await self._messaging.stop_listening(_SUCCESSORS, shared=True)
        self._leaving = True

    async def deliver(self, topic: bytes, request: Message) -> None:
        """Send a request to the owner of a queue. If it has none, an election is run first.

        Raises `ListenerClosed` if this node leaves and no other one can become the owner.
        """
        while not await self._messaging.send(REQUESTS + topic, request):
            if not self._leaving:
                await self._elect(topic)
                continue
            adopt = Message("adopt", self._messaging.node, 0, (topic.decode(), request))
            if not await self._messaging.send(_SUCCESSORS, adopt):
                raise ListenerClosed(f"The queue {to_group(topic)} has no owner, and there is no other node")
            return

    def _adopt(self, message: Message) -> None:
        topic, request = message.arguments
        self._messaging.start_soon(self.deliver(topic.encode(), request))

    async def _elect(self, topic: bytes) -> None:
        election = self._elections.get(topic)
        if election is None:
            loop = asyncio.get_running_loop()
            election = self._elections[topic] = _Election(loop.create_future())
            election.task = loop.create_task(self._run_election(topic, election))
            election.task.add_done_callback(partial(self._conclude, topic))
        await asyncio.shield(election.task)

    def _conclude(self, topic: bytes, task: asyncio.Task[None]) -> None:
        del self._elections[topic]
        # Have asyncio not log an error if all waiting callers are gone.
        _ = task.cancelled() or task.exception()

    async def _run_election(self, topic: bytes, election: _Election) -> None:
        """Become the owner if this node's claim comes first; all candidates get the claims in the broker's order.

        A candidate looks for an owner after it has subscribed to claims, and claims after it has subscribed to
        requests. So if two find no owner, each gets the other's claim: the one that looked later would have found the
        other one's subscription to requests.
        """
        messaging, node = self._messaging, self._messaging.node

        def on_claim(claim: Message) -> None:
            resolve(election.first_claim, claim.node)

        await messaging.listen(_CLAIMS + topic, {"claim": tuple[()]}, on_claim)
        try:
            if not await messaging.send(REQUESTS + topic, Message("probe", node, 0, ())):
                await messaging.listen(REQUESTS + topic, VERBS, partial(self._on_request, topic), shared=True)
                try:
                    await messaging.send(_CLAIMS + topic, Message("claim", node, 0, ()))
                    if await election.first_claim == node:
                        self.owners[topic] = QueueOwner(topic, messaging)
                finally:
                    if topic not in self.owners:
                        await messaging.stop_listening(REQUESTS + topic, shared=True)
            election.undecided = False
            for request in election.buffered:
                self._on_request(topic, request)
        finally:
            await messaging.stop_listening(_CLAIMS + topic)

    def _on_request(self, topic: bytes, request: Message) -> None:
        election = self._elections.get(topic)
        if topic in self.owners:
            self.owners[topic].handle(request)
        elif election is not None and election.undecided:
            election.buffered.append(request)
        else:
            self._messaging.start_soon(self.deliver(topic, request))

    async def give_up(self, topic: bytes) -> QueueOwner:
        """Own a queue no more. Returns its former owner, which gets nothing more."""
        owner = self.owners[topic]
        await self._messaging.stop_listening(REQUESTS + topic, shared=True)
        await owner.close_bindings()
        return self.owners.pop(topic)

    def end(self) -> None:
        """End the elections of a session that is over."""
        for election in self._elections.values():
            resolve(election.first_claim, None)
