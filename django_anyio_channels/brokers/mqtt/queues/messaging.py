"""What the nodes of one scope send to each other through the broker: MessagePack, at QoS 1."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from ....core.exceptions import ChannelLayerError, ListenerClosed
from ....core.layer import Reencryption
from ....core.stats import RateLimitedLogger
from ..packets import NO_MATCHING_SUBSCRIBERS, NO_PROPERTIES, Properties, Will
from ..subscriptions import Subscription

logger = logging.getLogger("django_anyio_channels")

REPLIES = b"node/"
ENVELOPE_BYTES = 96
"""What a message needs at most on its way between nodes, besides itself and the names of topics and nodes."""
CLEARED = "cleared"
"""The verb of an empty message, with which a retained one is cleared."""
_PRESENCE = b"presence"
_LEAVING = 1
"""The number of the announcement of a node that leaves. The will has another one."""
_REMEMBERED_NODES = 1000

PartOfTopic = Annotated[str, msgspec.Meta(pattern=r"^[^+#\0]*$", max_length=65_535)]
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

    async def publish(
        self, topic: bytes, payload: bytes, *, retain: bool = False, properties: bytes = NO_PROPERTIES
    ) -> int:
        """Publish at QoS 1, and return the broker's reason code."""


def topics_of(scope: str) -> bytes:
    """Return what the topics of the nodes of a scope begin with."""
    return b"%%nodes/%b/" % quote(scope, safe=":", errors="surrogatepass").encode()


def last_message(scope: str, node: str, qos: int) -> Will:
    """Return what the broker is to say when it has lost a node."""
    return Will((topics_of(scope) + _PRESENCE).decode(), _encode(Message("gone", node, 0, ())), qos)


class Messaging:
    """Sends and receives the messages of this node, whose names are topics, and runs its background tasks."""

    def __init__(self, transport: Transport, receive_reply: Callable[[Message], None]) -> None:
        """``receive_reply`` is called with the replies of this node to itself."""
        self.transport = transport
        self.node = transport.node
        self._topics = topics_of(transport.scope)
        self._receive_reply = receive_reply
        self._presence: dict[str, int] = {}
        """How often nodes have gone and come back, in turn: with an odd number a node is gone."""
        self._joined = False
        self._gone = asyncio.Event()
        """Set when this node has gone."""
        self._tasks: set[asyncio.Task[object]] = set()
        self._log = RateLimitedLogger()

    async def listen(
        self,
        name: bytes,
        verbs: Mapping[str, Any],
        handler: Callable[[Message], None],
        *,
        shared: bool = False,
        retained: bool = False,
    ) -> None:
        """Pass what is sent to a name to ``handler``; in effect when it returns.

        ``verbs`` have the types of their arguments; anything else is logged. Of all nodes with a shared subscription
        one gets each message. ``retained``: what is retained comes first, and `clear` is noticed.
        """

        def receive(payload: bytes) -> None:
            if retained and not payload:
                handler(Message(CLEARED, "", 0, ()))
                return
            try:
                verb, node, number, arguments = _decode(payload)
                message = Message(verb, node, number, msgspec.convert(arguments, verbs[verb]))
            except _INVALID as error:
                text = "Dropped a message on %s that was not published by this version of this package: %s"
                self._log.write(logging.ERROR, text, (self._topics + name).decode(errors="replace"), error)
            else:
                handler(message)

        topic_filter = self._filter(name, shared)
        subscription = Subscription(topic_filter, topic_filter.decode(), handler=receive, retained=retained)
        await self.transport.subscribe(subscription)

    async def watch_nodes(self, node_gone: Callable[[str], None]) -> None:
        """Call ``node_gone`` with the name of each node that leaves, or that the broker has lost."""

        def change(verb: str, node: str) -> None:
            seen = self._presence.pop(node, 0)
            if seen % 2 == (verb == "back"):
                seen += 1
            if seen:
                self._presence[node] = seen
            if len(self._presence) > _REMEMBERED_NODES:
                del self._presence[next(iter(self._presence))]
            if verb == "gone":
                node_gone(node)

        def receive(message: Message) -> None:
            if message.node != self.node:
                # After `deliver` has got the acknowledgements that the broker sent before this.
                asyncio.get_running_loop().call_soon(change, message.verb, message.node)
            elif message.number == _LEAVING:  # it is not the will of our former session
                change(message.verb, message.node)
                self._gone.set()

        await self.listen(_PRESENCE, {"gone": tuple[()], "back": tuple[()]}, receive)

    async def join(self) -> None:
        """Have nodes deliver messages here, before the first reader is announced."""
        if not self._joined:
            self._joined = True
            await self.send(_PRESENCE, Message("back", self.node, 0, ()))

    async def leave(self) -> None:
        """Have no node deliver a message here from now on; what was delivered before has arrived when it returns."""
        if self._joined:
            await self.send(_PRESENCE, Message("gone", self.node, _LEAVING, ()))
            await self._gone.wait()

    @property
    def has_left(self) -> bool:
        """Whether other nodes deliver no messages here any more."""
        return self._gone.is_set()

    async def deliver(self, node: str, number: int, *arguments: Any) -> bool:
        """Send a message to a reader. Returns False if its node does not get it, because it has gone."""
        before = self._presence.get(node, 0)
        if before % 2 or not await self.reply(node, number, "message", *arguments):
            return False
        # The broker has sent us the announcement of the node's end before it acknowledges what came after that.
        return self._presence.get(node, 0) == before

    async def stop_listening(self, name: bytes, *, shared: bool = False) -> None:
        """Undo `listen`."""
        await self.transport.unsubscribe(self._filter(name, shared))

    def _filter(self, name: bytes, shared: bool) -> bytes:
        return (b"$share/anyio/" if shared else b"") + self._topics + name

    async def send(self, name: bytes, message: Message, retain_seconds: int = 0) -> bool:
        """Send a message. Returns False if nobody listens; a node, if True, or a client that subscribes to it all."""
        topic, payload = self._topics + name, _encode(message)
        if retain_seconds:
            properties = Properties(message_expiry_interval=retain_seconds).pack()
            reason = await self.transport.publish(topic, payload, retain=True, properties=properties)
        else:
            reason = await self.transport.publish(topic, payload)
        return reason != NO_MATCHING_SUBSCRIBERS

    async def clear(self, name: bytes) -> None:
        """Have the broker forget what is retained."""
        await self.transport.publish(self._topics + name, b"", retain=True)

    async def reply(self, node: str, number: int, verb: str, *arguments: Any) -> bool:
        """Reply to a request. Returns False if the requesting node does not exist any more."""
        message = Message(verb, self.node, number, arguments)
        if node != self.node:
            return await self.send(REPLIES + node.encode(), message)
        self._receive_reply(message)
        return True

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
            self._log.write(
                logging.WARNING, "%s", error, exc_info=None if isinstance(error, ChannelLayerError) else error
            )

    async def finished(self) -> None:
        """Wait for the background tasks of a session that is over."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def resolve(future: asyncio.Future[Any], result: Any) -> None:
    """Set the result of a future unless it has one."""
    if not future.done():
        future.set_result(result)
