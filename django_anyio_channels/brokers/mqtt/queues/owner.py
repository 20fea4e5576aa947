"""One queue in the memory of the node that keeps it: answers the requests of all nodes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Protocol
from zlib import crc32

from ....core.stats import RateLimitedLogger
from ..packets import Publish
from ..topics import to_group
from .protocol import PackedBinding, Request
from .store import Reader, Store, Stored, unpack

logger = logging.getLogger("django_anyio_channels")

_REMEMBERED = 1000
"""Requests whose repetition is recognised."""


class Wire(Protocol):
    """What queues need of the layer. Every call raises `ListenerClosed` when the life is over."""

    @property
    def address(self) -> str:
        """The broker's."""

    @property
    def node(self) -> str:
        """Our name among the nodes."""

    @property
    def largest_packet(self) -> int:
        """How many bytes the broker takes at once."""

    async def listen(self, topic_filter: bytes, handle: Callable[[Publish], None]) -> None:
        """Have messages handed to ``handle``; in effect when it returns."""

    async def stop_listening(self, topic_filter: bytes) -> None:
        """Undo `listen`."""

    async def send(self, topic: bytes, payload: bytes) -> int:
        """Publish at QoS 1, and return the broker's reason code."""

    def filter_of(self, group: str) -> bytes:
        """The topic filter of what is published to a group."""

    def frame_of(self, group: str, message: Publish) -> bytes | None:
        """What a member of the group gets of it; None for nothing."""


Answer = Callable[[str, int, list[Any]], Awaitable[bool]]
"""Answers a node's request of that number; False if there is no such node any more."""

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Does something beside; the end of the life ends it."""


@dataclass(slots=True)
class Binding:
    """What is published to a group comes into the queue."""

    capacity: int
    expiry: float
    ends: float


def pack_bindings(bindings: dict[str, Binding]) -> list[PackedBinding]:
    """Bindings on their way between nodes."""
    now = monotonic()
    return [(group, each.capacity, each.expiry, each.ends - now) for group, each in bindings.items()]


class Keeper:
    """Keeps the queue of one topic.

    A request may come twice (its asker was impatient); it is done once. ``take`` and ``stop`` are about readers, which
    have numbers too.
    """

    def __init__(self, topic: bytes, wire: Wire, answer: Answer, spawn: Spawn) -> None:
        self.store = Store()
        self.bindings: dict[str, Binding] = {}
        self._topic = topic
        self._wire = wire
        self._answer = answer
        self._spawn = spawn
        self._done: OrderedDict[Reader, str] = OrderedDict()
        """What was answered to recent requests; empty while they are being done."""
        self._log = RateLimitedLogger()

    def handle(self, request: Request) -> None:
        """Do what a node asks for."""
        verb, node, number, arguments = request
        asker = (node, number)
        if verb == "hello":
            return  # somebody asked whether there is a keeper; the broker has answered
        if verb == "take":
            for reader in arguments[0]:
                self.store.wait((node, reader))
            self.hand_out()
        elif verb == "stop":
            for reader in arguments[0]:
                self.store.stop((node, reader))
            self._spawn(self._reply(asker, "ok"))
        elif asker in self._done:
            answer = self._done[asker]
            if answer:
                self._spawn(self._reply(asker, answer))
        else:
            self._done[asker] = ""
            if len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
            self._do(verb, asker, arguments)

    def _do(self, verb: str, asker: Reader, arguments: Any) -> None:
        if verb == "put":
            accepted = self.store.put(*arguments)
            self._conclude(asker, "ok" if accepted else "full")
            self.hand_out()
        elif verb == "back":
            self.store.insert(map(unpack, arguments[0]))
            self._conclude(asker, "ok")
            self.hand_out()
        elif verb == "bind":
            self._spawn(self._bind(asker, arguments[0]))
        elif verb == "unbind":
            self._spawn(self._unbind(asker, arguments[0]))
        else:
            logger.warning("A node asked the queue %s for %r, which it does not know", to_group(self._topic), verb)

    def hand_out(self) -> None:
        """Send messages to readers while there are both."""
        while (pair := self.store.match()) is not None:
            self._spawn(self._hand(*pair))

    async def _hand(self, reader: Reader, stored: Stored) -> None:
        node, number = reader
        if not await self._answer(node, number, ["message", self._topic, stored.pack()]):
            self.store.stop_node(node)
            self.store.insert([stored])
            self.hand_out()

    def _conclude(self, asker: Reader, answer: str) -> None:
        self._done[asker] = answer
        self._spawn(self._reply(asker, answer))

    async def _reply(self, asker: Reader, answer: str) -> None:
        await self._answer(*asker, [answer])

    # ---- bindings -----------------------------------------------------------------------------------------------

    async def _bind(self, asker: Reader, packed: list[PackedBinding]) -> None:
        for group, capacity, expiry, left in packed:
            known = group in self.bindings
            self.bindings[group] = Binding(capacity, expiry, monotonic() + left)
            if not known:
                await self._wire.listen(self._filter(group), partial(self._bound, group))
        self._conclude(asker, "ok")

    async def _unbind(self, asker: Reader, group: str) -> None:
        if self.bindings.pop(group, None) is not None:
            await self._wire.stop_listening(self._filter(group))
        self._conclude(asker, "ok")

    async def stop_bindings(self) -> None:
        """Take in nothing more from groups."""
        for group in self.bindings:
            await self._wire.stop_listening(self._filter(group))

    def purge(self) -> None:
        """No messages, no bindings."""
        self.store.clear()
        for group in list(self.bindings):
            del self.bindings[group]
            self._spawn(self._wire.stop_listening(self._filter(group)))

    def _bound(self, group: str, message: Publish) -> None:
        binding = self.bindings.get(group)
        if binding is None:
            return
        if binding.ends <= monotonic():
            del self.bindings[group]
            self._spawn(self._wire.stop_listening(self._filter(group)))
        elif (frame := self._wire.frame_of(group, message)) is None:
            return
        elif self.store.put(frame, binding.capacity, binding.expiry):
            self.hand_out()
        else:
            self._log.write(
                logging.WARNING,
                "Queue %s is full (capacity %d); a message of group %s was dropped",
                to_group(self._topic),
                binding.capacity,
                group,
            )

    def _filter(self, group: str) -> bytes:
        # A shared subscription of our own, so that it is another one than that of this node's subscribers to the group.
        share = b"$share/%b-%08x/" % (self._wire.node.encode(), crc32(self._topic))
        return share + self._wire.filter_of(group)
