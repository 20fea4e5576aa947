"""Which node owns a queue: retained announcements, and the election of an owner.

The owner announces itself at ``owner/<queue>``, to which every node subscribes that uses the queue. The announcement is
retained, so a newcomer gets it when it subscribes. A node that disconnects announces that its queues are vacant, and
the broker publishes the will of a node that it has lost. Reason code 16 (no matching subscribers) would not do: a
broker does not return it while a logger subscribes to every topic.

A candidate subscribes to the queue's requests, and then claims the queue at the same topic. All candidates get the
claims in the broker's order, and the first one wins. Claims are retained, so that a later candidate gets them, too.

An owner that does not reply loses its queue to the next node that needs it. If it comes back, or if a broker that keeps
no order has let two nodes win, each gets the announcement of the other one, and the node with the greater name hands
its queue off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import anyio

from ....core.exceptions import SubscriptionRefused
from ..topics import to_group
from .messaging import CLEARED, Message, Messaging
from .owner import VERBS, QueueOwner

T = TypeVar("T")

REQUESTS = b"queue/"
_OWNERS = b"owner/"
_VERBS = dict.fromkeys(("ask", "claim", "owner", "vacant", CLEARED), tuple[()])

ANNOUNCEMENT_SECONDS = 300
"""After which the broker forgets an announcement that is not repeated, so that none stays for ever."""
_REPEAT_SECONDS = 100.0
_ASK_SECONDS = 30.0
"""How long an owner may announce nothing before it is asked."""
_SILENCE_SECONDS = 4.0
"""How long an owner that was asked may be silent."""
_IDLE_SECONDS = 60.0
"""After which a queue that nobody uses is forgotten."""
_ADOPTION_SECONDS = 1.0
_ECHO_SECONDS = 10.0
"""How long the broker may take to deliver to this node what it publishes."""


@dataclass(slots=True, eq=False)
class Route:
    """What this node knows of the owner of one queue."""

    used_at: float
    owner: str | None = None
    """The name of its node."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is an owner, and at the end of the session."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when our question is back from the broker, after whatever was retained."""
    confirmed_at: float = 0.0
    silent_since: float | None = None
    """When the owner was asked, if it has not answered yet."""
    task: asyncio.Task[Any] | None = None
    """An election, or the end of this route."""

    def set_owner(self, owner: str | None) -> None:
        self.owner, self.silent_since, self.confirmed_at = owner, None, monotonic()
        if owner is None:
            self.known.clear()
        else:
            self.known.set()


class Elections:
    """Finds the owners of queues, some of which are here."""

    def __init__(
        self, messaging: Messaging, forward: Callable[[bytes, Message], None], hand_off: Callable[[bytes], None]
    ) -> None:
        """``forward`` gets the requests to a queue that is not owned here, ``hand_off`` a queue to give away."""
        self.owners: dict[bytes, QueueOwner] = {}
        """The queues that this node owns, by their topics."""
        self._messaging = messaging
        self._node = messaging.node
        self._number = random.getrandbits(48)
        """Distinguishes this session's announcements from retained ones of a former session."""
        self._forward = forward
        self._hand_off = hand_off
        self._routes: dict[bytes, Route] = {}

    async def find_owner(self, topic: bytes) -> None:
        """Return when the queue has an owner; that may be this node then."""
        while True:
            route = self._routes.setdefault(topic, Route(monotonic()))
            route.used_at = monotonic()
            if route.task is None and route.owner is not None:
                return
            await asyncio.shield(route.task or self._start(route, partial(self._elect, topic, route)))

    async def is_adopted(self, topic: bytes) -> bool:
        """Return whether a queue that was owned here gets an owner soon."""
        route = self._routes.get(topic)
        with anyio.move_on_after(_ADOPTION_SECONDS):
            if route is not None:
                await route.known.wait()
        return self.is_owned(topic)

    def is_owned(self, topic: bytes) -> bool:
        """Return whether an owner is known."""
        return topic in self._routes and self._routes[topic].owner is not None

    def vacate(self, topic: bytes) -> None:
        """Note that the queue has no owner: nobody subscribes to its requests."""
        self._routes[topic].set_owner(None)

    def ask(self, topic: bytes) -> None:
        """Ask the owner, which did not reply, whether it is there."""
        route = self._routes.get(topic)
        if route is not None and route.silent_since is None and route.owner not in (None, self._node):
            self._messaging.start_soon(self._announce(topic, "ask"))

    def node_gone(self, node: str) -> None:
        """Note that a node has gone. It owns nothing, but for this node, whose queues are handed off yet."""
        for route in self._routes.values():
            if route.owner == node != self._node:
                route.set_owner(None)
        for owner in self.owners.values():
            owner.drop_node(node)

    def repeat(self) -> None:
        """Repeat announcements, ask silent owners, and forget what is not used."""
        now = monotonic()
        for topic, route in self._routes.items():
            idle = now - route.used_at > _IDLE_SECONDS
            if route.task is not None:
                continue
            if topic in self.owners:
                if not self.owners[topic].is_used() and idle:
                    self._hand_off(topic)
                elif now - route.confirmed_at > _REPEAT_SECONDS:
                    route.confirmed_at = now
                    self._messaging.start_soon(self._announce(topic, "owner"))
            elif idle:
                self._start(route, partial(self._forget, topic, route))
            elif route.silent_since is not None and now - route.silent_since > _SILENCE_SECONDS:
                route.set_owner(None)
            elif now - route.confirmed_at > _ASK_SECONDS:
                self.ask(topic)

    async def give_up(self, topic: bytes) -> QueueOwner | None:
        """Own a queue no more. Returns its former owner, which gets nothing more; None if it was not owned."""
        route = self._routes[topic]
        while route.task is not None:
            await asyncio.shield(route.task)
        if topic not in self.owners:
            return None
        return await asyncio.shield(self._start(route, partial(self._give_up, topic, route)))

    def end(self) -> None:
        """End the waiting of a session that is over."""
        for route in self._routes.values():
            route.asked.set()
            route.known.set()

    def _start(self, route: Route, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run what changes the owner of a queue: one at a time, and the others wait."""

        async def run() -> T:
            try:
                return await work()
            finally:
                route.task = None

        task = route.task = asyncio.get_running_loop().create_task(run())
        task.add_done_callback(_retrieve)
        return task

    async def _elect(self, topic: bytes, route: Route) -> None:
        requests, receive = REQUESTS + topic, partial(self._receive, topic, route)
        await self._messaging.listen(_OWNERS + topic, _VERBS, receive, retained=True)
        route.asked.clear()
        await self._announce(topic, "ask")
        await self._wait(topic, route.asked)
        if route.owner is not None:
            return
        await self._messaging.listen(requests, VERBS, partial(self._receive_request, topic, route), shared=True)
        try:
            await self._announce(topic, "claim")
            await self._wait(topic, route.known)
            if route.owner == self._node:
                self.owners.setdefault(topic, QueueOwner(topic, self._messaging))
        finally:
            if topic not in self.owners:
                await self._messaging.stop_listening(requests, shared=True)

    async def _wait(self, topic: bytes, event: asyncio.Event) -> None:
        """Wait for what this node has published."""
        with anyio.move_on_after(_ECHO_SECONDS):
            await event.wait()
            return
        raise SubscriptionRefused(
            f"{self._messaging.transport.address} does not deliver the announcement of the owner of queue "
            f"{to_group(topic)}. Check that its access control lets this node read and write the topics between nodes"
        )

    async def _give_up(self, topic: bytes, route: Route) -> QueueOwner:
        await self._messaging.stop_listening(REQUESTS + topic, shared=True)
        await self.owners[topic].close_bindings()
        if route.owner == self._node:
            route.set_owner(None)
        await self._announce(topic, "vacant")
        await self._messaging.clear(_OWNERS + topic)
        return self.owners.pop(topic)

    async def _forget(self, topic: bytes, route: Route) -> None:
        if route.owner is None:
            await self._messaging.clear(_OWNERS + topic)  # what a dead owner has left
        await self._messaging.stop_listening(_OWNERS + topic)
        del self._routes[topic]

    async def _announce(self, topic: bytes, verb: str) -> None:
        seconds = ANNOUNCEMENT_SECONDS if verb in ("claim", "owner") else 0
        await self._messaging.send(_OWNERS + topic, Message(verb, self._node, self._number, ()), retain_seconds=seconds)

    def _receive(self, topic: bytes, route: Route, announcement: Message) -> None:
        verb, node, number, _ = announcement
        if verb == "ask" and number == self._number:
            route.asked.set()
            if route.owner not in (None, self._node):
                route.silent_since = route.silent_since or monotonic()
        elif topic in self.owners:
            self._answer(topic, route, verb, node)
        elif verb == "vacant":
            if route.owner == node:
                route.set_owner(None)
        elif node == self._node and number != self._number:
            pass  # it was retained for our former session
        elif verb == "owner" or (verb == "claim" and route.owner in (None, node)):
            route.set_owner(node)

    def _answer(self, topic: bytes, route: Route, verb: str, node: str) -> None:
        """Answer as the owner."""
        if route.owner != self._node or (node == self._node and verb != "ask"):
            return  # the queue is being given away; or it is our own announcement
        if verb == "owner" and node < self._node:
            route.set_owner(node)
            self._hand_off(topic)
        elif verb != "vacant":
            self._messaging.start_soon(self._announce(topic, "owner"))

    def _receive_request(self, topic: bytes, route: Route, request: Message) -> None:
        route.used_at = monotonic()
        if topic in self.owners:
            self.owners[topic].handle(request)
        else:
            self._forward(topic, request)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Have asyncio not log an error if all waiting callers are gone."""
    _ = task.cancelled() or task.exception()
