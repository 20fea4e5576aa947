"""One queue in the memory of the node that owns it: handles the requests of all nodes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any
from zlib import crc32

from ....core.exceptions import DecodeError
from ....core.stats import RateLimitedLogger
from ..subscriptions import Subscription
from ..topics import to_group
from .messaging import Message, Messaging
from .store import PackedMessage, QueuedMessage, Store, unpack

PackedBinding = tuple[str, int, float, float]
"""Group, capacity, expiry in seconds, and the seconds that are left of its lifetime."""

VERBS: dict[str, Any] = {
    "take": tuple[list[int]],
    "stop": tuple[list[int]],
    "put": tuple[bytes, int, float],
    "requeue": tuple[list[PackedMessage]],
    "bind": tuple[list[PackedBinding]],
    "unbind": tuple[str],
}
"""The requests to an owner, with the types of their arguments."""

_REMEMBERED_REQUESTS = 1000
"""Requests whose repetition is recognised."""

Requester = tuple[str, int]
"""A node, and its number for a request or for a reader."""


@dataclass(slots=True)
class Binding:
    """Puts what is published to a group into the queue."""

    capacity: int
    expiry: float
    expires_at: float


def pack_bindings(bindings: dict[str, Binding]) -> list[PackedBinding]:
    """Encode bindings for another node."""
    now = monotonic()
    return [(group, each.capacity, each.expiry, each.expires_at - now) for group, each in bindings.items()]


class QueueOwner:
    """Owns the queue of one topic.

    A request may come twice, because requests are repeated until they are replied to; it is handled once.
    """

    def __init__(self, topic: bytes, messaging: Messaging) -> None:
        self.store = Store()
        self.bindings: dict[str, Binding] = {}
        self.readers: dict[Requester, None] = {}
        """The waiting readers, longest first. No messages wait as long as there are any."""
        self._topic = topic
        self._messaging = messaging
        self._replies: dict[Requester, str] = {}
        """The replies to recent requests; empty while they are being handled."""
        self._log = RateLimitedLogger()

    def handle(self, request: Message) -> None:
        """Handle the request of a node."""
        verb, node, number, arguments = request
        requester = (node, number)
        if verb == "take":
            self.readers.update({(node, reader): None for reader in arguments[0]})
        elif requester not in self._replies:
            self._replies[requester] = ""
            if len(self._replies) > _REMEMBERED_REQUESTS:
                del self._replies[next(iter(self._replies))]
            self._handle_once(verb, requester, *arguments)
        elif self._replies[requester]:
            self._reply(requester, self._replies[requester])
        self._dispatch()

    def _handle_once(self, verb: str, requester: Requester, *arguments: Any) -> None:
        if verb == "bind":
            self._messaging.start_soon(self._bind(requester, *arguments))
        elif verb == "unbind":
            self._messaging.start_soon(self._unbind(requester, *arguments))
        elif verb == "put":
            self._reply(requester, "ok" if self.store.put(*arguments) else "full")
        elif verb == "requeue":
            for packed in arguments[0]:
                self.store.appendleft(unpack(packed))
            self._reply(requester, "ok")
        else:
            for reader in arguments[0]:
                self.readers.pop((requester[0], reader), None)
            self._reply(requester, "ok")

    def _reply(self, requester: Requester, reply: str) -> None:
        self._replies[requester] = reply
        self._messaging.start_soon(self._messaging.reply(*requester, reply))

    def _dispatch(self) -> None:
        """Send messages to readers while there are both."""
        while self.readers and self.store:
            reader = next(iter(self.readers))
            del self.readers[reader]
            self._messaging.start_soon(self._deliver(reader, self.store.popleft()))

    async def _deliver(self, reader: Requester, message: QueuedMessage) -> None:
        node, number = reader
        if not await self._messaging.deliver(node, number, self._topic.decode(), message.pack()):
            self.drop_node(node)
            self.store.appendleft(message)
            self._dispatch()

    async def _bind(self, requester: Requester, packed: list[PackedBinding]) -> None:
        for group, capacity, expiry, seconds_left in packed:
            known = group in self.bindings
            self.bindings[group] = Binding(capacity, expiry, monotonic() + seconds_left)
            if not known:
                await self._messaging.transport.subscribe(self._subscription(group))
        self._reply(requester, "ok")

    async def _unbind(self, requester: Requester, group: str) -> None:
        if self.bindings.pop(group, None) is not None:
            await self._stop_listening(group)
        self._reply(requester, "ok")

    def drop_node(self, node: str) -> None:
        """Forget the readers of a node that is gone."""
        self.readers = {each: None for each in self.readers if each[0] != node}

    def is_used(self) -> bool:
        """Return whether anything is left to be done, after what has expired is gone."""
        for group in [group for group, each in self.bindings.items() if each.expires_at <= monotonic()]:
            self._end_binding(group)
        return bool(self.store or self.readers or self.bindings)

    async def close_bindings(self) -> None:
        """Put nothing more that is published to groups into the queue."""
        for group in self.bindings:
            await self._stop_listening(group)

    def purge(self) -> None:
        """Drop all messages, and end all bindings."""
        self.store.clear()
        for group in list(self.bindings):
            self._end_binding(group)

    def _end_binding(self, group: str) -> None:
        del self.bindings[group]
        self._messaging.start_soon(self._stop_listening(group))

    async def _stop_listening(self, group: str) -> None:
        await self._messaging.transport.unsubscribe(self._subscription(group).topic_filter)

    def _subscription(self, group: str) -> Subscription:
        # Not the node's name alone: its own subscribers to the group, and its other queues, have other subscriptions.
        share = b"$share/%b-%08x/" % (self._messaging.node.encode(), crc32(self._topic))
        return self._messaging.transport.group_subscription(group, share, partial(self._put_published, group))

    def _put_published(self, group: str, payload: bytes) -> None:
        binding = self.bindings.get(group)
        if binding is None:
            return
        if binding.expires_at <= monotonic():
            self._end_binding(group)
            return
        message = self._for_queue(group, payload, binding.expiry)
        if message is None:
            return
        if self.store.put(message, binding.capacity, binding.expiry):
            self._dispatch()
        else:
            text = "Queue %s is full (capacity %d); dropped a message of group %s"
            self._log.write(logging.WARNING, text, to_group(self._topic), binding.capacity, group)

    def _for_queue(self, group: str, payload: bytes, expiry: float) -> bytes | None:
        reencrypt, queue = self._messaging.transport.reencrypt, to_group(self._topic)
        try:
            return payload if reencrypt is None else reencrypt(payload, group, queue, expiry)
        except DecodeError as error:
            self._log.write(logging.ERROR, "Dropped a message of group %s for queue %s: %s", group, queue, error)
            return None
