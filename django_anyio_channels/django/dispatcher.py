"""Which event loop carries a call: the caller's own, another one of this process, or none at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ..core.capabilities import SupportsBlockingPublish, SupportsTransactions
from ..core.exceptions import ChannelClosed, QueueFull
from ..core.stats import RateLimitedLogger
from . import event_loops
from .cross_loop import EventLoopClosed, Loop, submit, wait_async, wait_blocking
from .encryption import EncryptedPublisher
from .names import node_of
from .node import Node, open_node
from .settings import Settings

T = TypeVar("T")
Call = Callable[[Node], Coroutine[Any, Any, T]]
_Errors = tuple[type[Exception], ...]

CALLS_BEFORE_OWN_NODE = 16
"""How often an event loop publishes through the node of another one before it opens its own."""


async def same_node(node: Node) -> Node:
    """The call that only asks for the node."""
    return node


class Dispatcher:
    """Carries the calls of every thread and event loop of this process.

    An event loop that receives has a node of its own. One that only publishes uses the node of another loop, so that a
    short-lived loop costs no connection; one that keeps publishing opens its own. A broker that accepts messages from
    any thread gets them at once.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._nodes = event_loops.LoopLocal(lambda: open_node(settings))
        self.node_of_loop = self._nodes.resources
        """The open node of each event loop. Read by the layer itself, which saves a call for each message."""
        layer, *others = settings.make_layers()
        publisher: Any = layer
        if settings.encryption is not None:
            publisher = EncryptedPublisher(layer, settings.encryption, max(settings.expiry, layer.retention))
        # Of several brokers each has some of the names, and a layer knows its own broker only.
        blocking = isinstance(layer, SupportsBlockingPublish) and not others
        self._blocking_publisher: SupportsBlockingPublish | None = publisher if blocking else None
        transactional = isinstance(layer, SupportsTransactions) and not others
        self.transactional_publisher: SupportsTransactions | None = publisher if transactional else None
        self._log = RateLimitedLogger()
        # A call may wait for the connection twice (to open a node, and to use it), and then for the broker's answer.
        self._timeout = 3 * settings.publish_timeout

    @property
    def nodes(self) -> list[Node]:
        """Every open node of this process."""
        return self._nodes.all_open()

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish from an event loop without a node."""
        if not self._publish_blocking(topic, payload):
            await self._call_any_node(lambda node: node.publish(topic, payload))

    async def put(self, channel: str, payload: bytes) -> None:
        """Put into the queue of a normal channel from an event loop without a node."""
        if not self._put_blocking(channel, payload):
            await self._call_any_node(lambda node: node.put(channel, payload))

    def publish_sync(self, topic: str, payload: bytes) -> None:
        """`publish` for a caller that cannot await."""
        if not self._publish_blocking(topic, payload):
            self.call_sync(lambda node: node.publish(topic, payload), repeat_after=(ChannelClosed,))

    def put_sync(self, channel: str, payload: bytes) -> None:
        """`put` for a caller that cannot await."""
        if not self._put_blocking(channel, payload):
            self.call_sync(lambda node: node.put(channel, payload), repeat_after=(ChannelClosed,))

    def _publish_blocking(self, topic: str, payload: bytes) -> bool:
        """Publish if the broker accepts messages from any thread; return whether it does."""
        publisher = self._blocking_publisher
        if publisher is not None:
            for queue, capacity, expiry in publisher.publish_blocking(topic, payload).bound_queues:
                try:
                    publisher.put_blocking(queue, payload, capacity=capacity, expiry=expiry)
                except QueueFull:
                    self._log.write(logging.WARNING, "Dropped a message to %s for the full queue %s", topic, queue)
        return publisher is not None

    def _put_blocking(self, channel: str, payload: bytes) -> bool:
        publisher = self._blocking_publisher
        if publisher is not None:
            queue, capacity, expiry = self._settings.queue_of(channel)
            publisher.put_blocking(queue, payload, capacity=capacity, expiry=expiry)
        return publisher is not None

    async def _call_any_node(self, call: Call[T]) -> T:
        if not event_loops.is_async_to_sync_loop() and self._nodes.call_count() > CALLS_BEFORE_OWN_NODE:
            return await self._call_here(call)
        try:
            return await self._call_in(self._nodes.any_other(), call)
        except ChannelClosed:
            return await self._call_in(event_loops.background.loop(), call)

    def call_sync(self, call: Call[T], *, repeat_after: _Errors = (ChannelClosed, EventLoopClosed)) -> T:
        """Call with the node of another loop; if that loop is just ending, once more with the background loop's.

        After `EventLoopClosed` the first call may have had its effect.
        """

        def call_in(loop: Loop) -> T:
            return wait_blocking(submit(loop, lambda: self._call_here(call)), self._timeout)

        try:
            return call_in(self._nodes.any_other())
        except repeat_after:
            return call_in(event_loops.background.loop())

    async def call(self, call: Call[T]) -> T:
        """Call with the running loop's own node, opened if need be; for a short-lived loop, the background loop's."""
        node = self._nodes.current()
        return await (call(node) if node is not None else self._call_in(self._own_loop(), call))

    async def call_owner(self, channel: str, call: Call[T]) -> T:
        """Call with the node that made the name of a channel."""
        return await self._call_in(self._owning_loop(channel), call)

    async def call_in(self, loop: Loop, call: Callable[[], Awaitable[T]]) -> T:
        """Await something in one certain event loop of this process."""
        if loop.is_closed():
            raise EventLoopClosed("The event loop that received this has ended, and returned it to the other readers")
        return await self._run_in(loop, call)

    async def receive(self, channel: str) -> Any:
        """Wait for the next message of a channel, whichever event loop of this process it belongs to."""
        node, owner = self._nodes.current(), node_of(channel)
        if node is not None and owner in (None, node.id):
            return await node.receive(channel)
        loop = self._own_loop() if owner is None else self._owning_loop(channel)
        if loop is asyncio.get_running_loop():
            return await self._call_here(lambda node: node.receive(channel))
        received_by: list[Node] = []

        async def receive(node: Node) -> Any:
            received_by.append(node)
            return await node.receive(channel)

        def put_back(message: Any) -> None:
            with suppress(ChannelClosed):  # the node has closed meanwhile, and its channels are gone with it
                received_by[0].put_back(channel, message)

        return await wait_async(submit(loop, lambda: self._call_here(receive), put_back), loop, None, put_back)

    def _own_loop(self) -> Loop:
        """Return the loop whose node serves the running loop, which has none yet."""
        return event_loops.background.loop() if event_loops.is_async_to_sync_loop() else asyncio.get_running_loop()

    def _owning_loop(self, channel: str) -> Loop:
        owner = node_of(channel)
        for loop, node in self.node_of_loop.copy().items():
            if node.id == owner:
                return loop
        raise ValueError(
            f"Cannot receive on {channel!r} here: the process or event loop that made the name with "
            f"new_channel() is another one, or has ended"
        )

    async def _call_in(self, loop: Loop, call: Call[T]) -> T:
        return await self._run_in(loop, lambda: self._call_here(call))

    async def _run_in(self, loop: Loop, call: Callable[[], Awaitable[T]]) -> T:
        if loop is asyncio.get_running_loop():
            return await call()
        return await wait_async(submit(loop, call), loop, self._timeout)

    async def _call_here(self, call: Call[T]) -> T:
        return await call(self._nodes.current() or await self._nodes.get_or_open())

    async def close(self) -> None:
        """Close the nodes of the running loop and of the background loop."""
        await self._nodes.close_current()
        loop = event_loops.background.loop_if_running
        if loop is not None:
            await self._run_in(loop, self._nodes.close_current)

    def close_all(self) -> None:
        """Close the nodes of every loop, from a thread that runs none. The next call opens another one."""
        self._nodes.close_all(self._timeout)
