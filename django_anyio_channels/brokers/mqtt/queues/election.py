"""The queues that this node owns, and the elections in which it becomes their owner (shared subscriptions)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

from .messaging import Messaging, consume_error, resolve
from .owner import QueueOwner
from .protocol import encode, read_request

REQUESTS = b"queue/"
_CLAIMS = b"claim/"


@dataclass(slots=True)
class _Election:
    """An attempt to become a queue's owner."""

    first_claim: asyncio.Future[bytes | None]
    """The node that claimed the queue first; None at the end of the session."""
    task: asyncio.Task[None] = field(init=False)
    undecided: bool = True
    buffered: list[bytes] = field(default_factory=list)
    """Requests that came while it was undecided."""


class OwnedQueues:
    """Delivers requests to the owners of queues, some of which are here."""

    def __init__(self, messaging: Messaging) -> None:
        self.owners: dict[bytes, QueueOwner] = {}
        """By the queue's topic."""
        self._messaging = messaging
        self._elections: dict[bytes, _Election] = {}

    async def deliver(self, topic: bytes, payload: bytes) -> None:
        """Send a request to the owner of a queue. If it has none, an election is run first."""
        while not await self._messaging.send(REQUESTS + topic, payload):
            await self._elect(topic)

    async def _elect(self, topic: bytes) -> None:
        election = self._elections.get(topic)
        if election is None:
            loop = asyncio.get_running_loop()
            election = self._elections[topic] = _Election(loop.create_future())
            election.task = loop.create_task(self._run_election(topic, election))
            election.task.add_done_callback(lambda _: self._elections.pop(topic, None))
            election.task.add_done_callback(consume_error)
        await asyncio.shield(election.task)

    async def _run_election(self, topic: bytes, election: _Election) -> None:
        """Become the owner if this node's claim comes first; all candidates get the claims in the broker's order.

        A candidate looks for an owner after it has subscribed to claims, and claims after it has subscribed to
        requests. So if two find no owner, each gets the other's claim: the one that looked later would have found the
        other one's subscription to requests.
        """
        messaging, name = self._messaging, self._messaging.node.encode()
        await messaging.listen(_CLAIMS + topic, bytes, partial(resolve, election.first_claim))
        try:
            if not await messaging.send(REQUESTS + topic, encode(["probe", "", 0])):
                await messaging.listen(REQUESTS + topic, bytes, partial(self._on_request, topic), shared=True)
                try:
                    await messaging.send(_CLAIMS + topic, name)
                    if await election.first_claim == name:
                        self.owners[topic] = QueueOwner(topic, messaging)
                finally:
                    if topic not in self.owners:
                        await messaging.stop_listening(REQUESTS + topic, shared=True)
            election.undecided = False
            for payload in election.buffered:
                self._on_request(topic, payload)
        finally:
            await messaging.stop_listening(_CLAIMS + topic)

    def _on_request(self, topic: bytes, payload: bytes) -> None:
        election = self._elections.get(topic)
        if topic in self.owners:
            self._messaging.handle(REQUESTS + topic, read_request, self.owners[topic].handle, payload)
        elif election is not None and election.undecided:
            election.buffered.append(payload)
        else:
            self._messaging.start_soon(self.deliver(topic, payload))

    def end(self) -> None:
        """End the elections of a session that is over."""
        for election in self._elections.values():
            resolve(election.first_claim, None)
