"""Queues over MQTT, which has none: each queue is owned by one of the nodes.

MQTT passes a message on or forgets it. So the messages of a queue are in the memory of one node, its *owner*. The way
of a message:

* `MQTTQueues.put` sends a request to the queue's topic, to which only the owner subscribes (``$share``, so that never
  two nodes handle one request). A queue without an owner gets one before that, the first node that needs it
  (`election`, `requests`).
* The owner (`owner`) keeps the message (`store`), or sends it to the node of the reader that waits longest, and there
  one of the waiting tasks gets it (`readers`).
* A node that disconnects hands its queues off to another node of its scope, or if there is none, to the next session of
  its process. When the broker dies, they stay where they are, and are offered again afterwards (`handoff`).

Everything goes through the broker (`messaging`), so that all nodes see one order. The crash of a node costs the
messages and bindings of the queues that it owns, and the messages on their way to its readers. The end of the last
process costs all queues. Where this matters, use a broker that has queues: Redis or PostgreSQL.

Topics, in the scope of the prefix (a group's topic never begins so, see `topics`): ``%nodes/<scope>/queue/<queue>`` for
requests, ``owner/<queue>`` for the announcement of its owner (the only retained one), ``node/<client id>`` for replies,
``successors`` for queues whose owner disconnects, ``presence`` for nodes that leave, die (their wills) and come back,
``purge``.
"""

from __future__ import annotations

import asyncio
from itertools import islice

import anyio

from ....core.exceptions import ListenerClosed, PayloadTooLarge, QueueFull
from ....core.inspection import QueueState
from ..topics import to_group, to_topic
from .handoff import HandOffs
from .messaging import REPLIES, Message, Messaging, PartOfTopic, Transport
from .readers import Readers
from .store import PackedMessage

_PURGE = b"purge"
_REPLY_VERBS = {"ok": tuple[()], "full": tuple[()], "message": tuple[PartOfTopic, PackedMessage]}

_REPEAT_SECONDS = 1.0
"""How often requests without a reply are repeated: the owner may have died."""
_CLOSE_SECONDS = 2.0
"""How long closing may take."""


class MQTTQueues:
    """The queue verbs of `MQTTChannelLayer` in one session, and this node's part in owning queues."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.messaging = Messaging(transport, self._receive_reply)
        self._hand_offs = HandOffs(self.messaging)
        self.requests = self._hand_offs.requests
        self._readers = Readers(self.messaging, self.requests, self._hand_offs)
        self._timer: asyncio.TimerHandle | None = None

    async def put(self, queue: str, message: bytes, capacity: int, expiry: float) -> None:
        """See `BaseChannelLayer`, as for the other verbs."""
        topic = to_topic(queue)
        size, limit = len(message) + self.messaging.envelope_size(topic), self._transport.largest_packet
        if size > limit:
            raise PayloadTooLarge(
                f"A message for queue {queue} needs {size} bytes on its way; {self._transport.address} takes at most "
                f"{limit}. Send less, or raise the broker's limit (mosquitto: max_packet_size)"
            )
        if await self.requests.send(topic, "put", message, capacity, expiry) == "full":
            raise QueueFull(queue, capacity)

    async def take(self, queue: str) -> bytes:
        return await self._readers.take(to_topic(queue))

    async def bind(self, group: str, queue: str, capacity: int, expiry: float, lifetime: float) -> None:
        await self.requests.send(to_topic(queue), "bind", [(group, capacity, expiry, lifetime)])

    async def unbind(self, group: str, queue: str) -> None:
        await self.requests.send(to_topic(queue), "unbind", group)

    async def purge(self, prefix: str) -> None:
        await self.messaging.send(_PURGE, Message("purge", self.messaging.node, 0, (prefix,)))

    def inspect(self, prefix: str, limit: int) -> list[QueueState]:
        """Return the queues that this node owns."""
        owners = ((to_group(topic), owner) for topic, owner in self.requests.elections.owners.items())
        found = islice((each for each in owners if each[0].startswith(prefix)), limit)
        return [
            QueueState(name, len(owner.store), owner.store.expires_in, readers=len(owner.readers))
            for name, owner in found
        ]

    async def begin(self) -> None:
        """Begin the session. Raises `ListenerClosed`, and `SubscriptionRefused` if the broker does not allow it."""
        self._repeat()
        await asyncio.gather(
            self.messaging.listen(REPLIES + self.messaging.node.encode(), _REPLY_VERBS, self._receive_reply),
            self.messaging.listen(_PURGE, {"purge": tuple[str]}, self._on_purge),
            self.messaging.watch_nodes(self.requests.elections.node_gone),
            self.requests.accept_queues(),
        )
        await self._hand_offs.begin()

    def _repeat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_REPEAT_SECONDS, self._repeat)
        self._readers.repeat()
        self.requests.repeat()

    async def close(self) -> None:
        """Return the undelivered messages of this node, and hand off its queues."""
        with anyio.move_on_after(_CLOSE_SECONDS):
            with anyio.move_on_after(_CLOSE_SECONDS / 2):
                await self._readers.close()
            await self._hand_offs.close()

    def end(self, error: ListenerClosed) -> None:
        """The session is over: fail all calls with ``error``. What is left is kept for the next session."""
        if self._timer is not None:
            self._timer.cancel()
        self.requests.end()
        self._hand_offs.end()
        self._readers.end(error)

    def _receive_reply(self, reply: Message) -> None:
        if reply.verb == "message":
            self._readers.receive(reply)
        else:
            self.requests.receive(reply)

    def _on_purge(self, purge: Message) -> None:
        (prefix,) = purge.arguments
        for topic, owner in self.requests.elections.owners.items():
            if to_group(topic).startswith(prefix):
                owner.purge()
        self._readers.purge(prefix)
