"""What the nodes of one scope send to each other through the broker: MessagePack, at QoS 1."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, NamedTuple, Protocol
from urllib.parse import quote
from uuid import uuid4

import msgspec

from ....core.exceptions import ChannelLayerError, ListenerClosed
from ....core.layer import Reencryption
from ....core.stats import RateLimitedLogger
from ..packets import NO_MATCHING_SUBSCRIBERS
from ..subscriptions import Subscription

logger = logging.getLogger("django_anyio_channels")

REPLIES = b"node/"
ENVELOPE_BYTES = 96
"""What a message needs at most on its way between nodes, besides itself and the names of topics and nodes."""
ALL_TOPICS_SUBSCRIBED = (
    "A client subscribes to every topic (#), so the broker can't tell whether a normal channel has an owner: one whose "
    "owner is gone gets no new one. Have that client subscribe to the topics that it needs, none of them with %"
)

PartOfTopic = Annotated[str, msgspec.Meta(pattern=r"^[^+#\0]*$")]
"""Text that makes no filter of the topic that it is put into."""


class Message(NamedTuple):
    """A request to the owner of a queue, the reply to one, or what is for other nodes."""

    verb: str
    node: PartOfTopic
    """The sender."""
    number: int
    """The sender's number for a request; its reply has the same."""
    arguments: Any


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
_INVALID = (msgspec.DecodeError, KeyError, RecursionError, ValueError)
"""What reading raises for a payload that no node of this version has written."""


class Transport(Protocol):
    """What queues need of a session. Every coroutine raises `ListenerClosed` when the session is over."""

    address: str
    scope: str
    """The prefix of the nodes that this node speaks with."""
    node: str
    """The name of this node."""
    reencrypt: Reencryption | None
    """What to call for a message of a group, before it is put into a queue."""

    @property
    def largest_packet(self) -> int:
        """Bytes that the broker takes at most in one packet."""

    def group_subscription(self, group: str, share: bytes, handler: Callable[[bytes], None]) -> Subscription:
        """Return a subscription to a group; ``share`` is ``$share/<name>/``, with a name of this subscription alone."""

    async def subscribe(self, subscription: Subscription) -> None: ...

    async def unsubscribe(self, topic_filter: bytes) -> None: ...

    async def publish(self, topic: bytes, payload: bytes) -> int:
        """Publish at QoS 1, and return the broker's reason code."""


class Messaging:
    """Sends and receives the messages of this node, whose names are topics, and runs its background tasks."""

    def __init__(self, transport: Transport, receive_reply: Callable[[Message], None]) -> None:
        """``receive_reply`` is called with the replies of this node to itself."""
        self.transport = transport
        self.node = transport.node
        self._topics = b"%%nodes/%b/" % quote(transport.scope, safe=":", errors="surrogatepass").encode()
        self._receive_reply = receive_reply
        self._tasks: set[asyncio.Task[object]] = set()
        self._log = RateLimitedLogger()

    async def listen(
        self, name: bytes, verbs: Mapping[str, Any], handler: Callable[[Message], None], *, shared: bool = False
    ) -> None:
        """Pass what is sent to a name to ``handler``; in effect when it returns.

        ``verbs`` have the types of their arguments; anything else is logged. Of all nodes with a shared subscription
        one gets each message.
        """

        def receive(payload: bytes) -> None:
            try:
                verb, node, number, arguments = _decode(payload)
                message = Message(verb, node, number, msgspec.convert(arguments, verbs[verb]))
            except _INVALID as error:
                text = "Dropped a message on %s that was not published by this version of this package: %s"
                self._log.write(logging.ERROR, text, (self._topics + name).decode(errors="replace"), error)
            else:
                handler(message)

        topic_filter = self._filter(name, shared)
        await self.transport.subscribe(Subscription(topic_filter, topic_filter.decode(), handler=receive))

    async def stop_listening(self, name: bytes, *, shared: bool = False) -> None:
        """Undo `listen`."""
        await self.transport.unsubscribe(self._filter(name, shared))

    def _filter(self, name: bytes, shared: bool) -> bytes:
        return (b"$share/anyio/" if shared else b"") + self._topics + name

    async def send(self, name: bytes, message: Message) -> bool:
        """Send a message. Returns whether a node listens."""
        return await self.transport.publish(self._topics + name, _encode(message)) != NO_MATCHING_SUBSCRIBERS

    async def reply(self, node: str, number: int, verb: str, *arguments: Any) -> bool:
        """Reply to a request. Returns whether the requesting node still exists."""
        message = Message(verb, self.node, number, arguments)
        if node != self.node:
            return await self.send(REPLIES + node.encode(), message)
        self._receive_reply(message)
        return True

    async def all_topics_subscribed(self) -> bool:
        """Return whether a client subscribes to a topic that no client can know."""
        try:
            return await self.send(REPLIES + uuid4().hex.encode(), Message("probe", self.node, 0, ()))
        except ListenerClosed:
            return False

    def envelope_size(self, topic: bytes) -> int:
        """Return how many bytes a message of a queue needs at most on its way between nodes, besides its own."""
        return ENVELOPE_BYTES + len(self._topics) + 2 * (len(topic) + len(self.node))

    def start_soon(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a background task. The end of the session ends it; other errors are logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ListenerClosed):
            logger.debug("Background task cancelled: %s", error)
        elif error is not None:
            logger.warning("%s", error, exc_info=None if isinstance(error, ChannelLayerError) else error)

    async def finished(self) -> None:
        """Wait for the background tasks of a session that is over."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def resolve(future: asyncio.Future[Any], result: Any) -> None:
    """Set the result of a future unless it has one."""
    if not future.done():
        future.set_result(result)
