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
from .names import BrokerNames, node_of
from .node import Node, open_node
from .settings import Settings

T = TypeVar("T")
Call = Callable[[Node], Coroutine[Any, Any, T]]

CALLS_BEFORE_OWN_NODE = 16
"""How often an event loop publishes through the node of another one before it opens its own."""


class Dispatcher:
    """Carries the calls of every thread and event loop of this process.

    An event loop that receives has a node of its own. One that only publishes uses the node of another loop, so that a
    short-lived loop costs no connection; one that keeps publishing opens its own. A broker that accepts messages from
    any thread gets them at once.
    """

    def __init__(self, settings: Settings, names: BrokerNames) -> None:
        self._settings = settings
        self._names = names
        self._nodes = event_loops.LoopLocal(lambda: open_node(settings, names))
        self.node_of_loop = self._nodes.resources
        """The open node of each event loop. Read by the layer itself, which saves a call for each message."""
        layer, *others = settings.make_layers()
        # Of several brokers each has some of the names, and a layer knows its own broker only.
        self._blocking_publisher = layer if isinstance(layer, SupportsBlockingPublish) and not others else None
        self.transactional_publisher = layer if isinstance(layer, SupportsTransactions) and not others else None
        self._log = RateLimitedLogger()
        # A call may wait for the connection twice (to open a node, and to use it), and then for the broker's answer.
        self._timeout = 3 * settings.publish_timeout

    @property
    def nodes(self) -> list[Node]:
        """Every open node of this process."""
        return self._nodes.all_open()

    # ---- publishing -----------------------------------------------------------------------------------------------

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish from an event loop without a node."""
        if not self._publish_blocking(topic, payload):
            await self._call_any_node(lambda node: node.channel.publish_payload(topic, payload))

    async def put(self, channel: str, payload: bytes) -> None:
        """Put into the queue of a normal channel from an event loop without a node."""
        if not self._put_blocking(channel, payload):
            await self._call_any_node(lambda node: node.put(channel, payload))

    def publish_sync(self, topic: str, payload: bytes) -> None:
        """`publish` for a caller that cannot await."""
        if not self._publish_blocking(topic, payload):
            self._call_sync(lambda node: node.channel.publish_payload(topic, payload), ChannelClosed)

    def put_sync(self, channel: str, payload: bytes) -> None:
        """`put` for a caller that cannot await."""
        if not self._put_blocking(channel, payload):
            self._call_sync(lambda node: node.put(channel, payload), ChannelClosed)

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
        publisher, settings = self._blocking_publisher, self._settings
        if publisher is not None:
            queue, capacity = self._names.queue(channel), settings.capacity_of(channel)
            publisher.put_blocking(queue, payload, capacity=capacity, expiry=settings.expiry)
        return publisher is not None

    async def _call_any_node(self, call: Call[T]) -> T:
        if not event_loops.is_async_to_sync_loop() and self._nodes.call_count() > CALLS_BEFORE_OWN_NODE:
            return await call(await self._nodes.get_or_open())
        try:
            return await self._call_in(self._nodes.any_other(), call)
        except ChannelClosed:
            return await self._call_in(event_loops.background.loop(), call)

    # ---- other calls ----------------------------------------------------------------------------------------------

    async def call(self, call: Call[T]) -> T:
        """Call with the running loop's own node, opened if need be; for a short-lived loop, the background loop's."""
        return await self._call_in(self._own_loop(), call)

    async def call_in(self, loop: Loop, call: Callable[[], Awaitable[T]]) -> T:
        """Await something in one certain event loop of this process."""
        if loop is asyncio.get_running_loop():
            return await call()
        if loop.is_closed():
            raise EventLoopClosed("The event loop that received this has ended, and returned it to the other readers")

        async def in_loop(node: Node) -> T:
            return await call()

        return await self._call_in(loop, in_loop)

    async def call_owner(self, channel: str, call: Call[T]) -> T:
        """Call with the node that made the name of a channel."""
        return await self._call_in(self._owning_loop(channel), call)

    def call_sync(self, call: Call[T]) -> T:
        """Call with any node, for a caller that cannot await; the call may be made twice."""
        return self._call_sync(call, ChannelClosed, EventLoopClosed)

    def _call_sync(self, call: Call[T], *retried: type[Exception]) -> T:
        """Call with the node of another loop; if that loop is just ending, with the background loop's."""
        try:
            return self._wait_for(self._nodes.any_other(), call)
        except retried:
            return self._wait_for(event_loops.background.loop(), call)

    def _wait_for(self, loop: Loop, call: Call[T]) -> T:
        return wait_blocking(submit(loop, lambda: self._call_here(call)), self._timeout)

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
        if self._nodes.current() is None and event_loops.is_async_to_sync_loop():
            return event_loops.background.loop()
        return asyncio.get_running_loop()

    def _owning_loop(self, channel: str) -> Loop:
        loop = self._nodes.loop_of(lambda node: node.id == node_of(channel))
        if loop is None:
            raise ValueError(
                f"Cannot receive on {channel!r} here: the process or event loop that made the name with "
                f"new_channel() is another one, or has ended"
            )
        return loop

    async def _call_in(self, loop: Loop, call: Call[T]) -> T:
        if loop is asyncio.get_running_loop():
            return await self._call_here(call)
        return await wait_async(submit(loop, lambda: self._call_here(call)), loop, self._timeout)

    async def _call_here(self, call: Call[T]) -> T:
        return await call(self._nodes.current() or await self._nodes.get_or_open())

    # ---- the end --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the nodes of the running loop and of the background loop."""
        await self._nodes.close_current()
        loop = event_loops.background.loop_if_running
        if loop is not None:
            await wait_async(submit(loop, self._nodes.close_current), loop, self._timeout)

    def close_all(self) -> None:
        """Close the nodes of every loop, from a thread that runs none. The next call opens another one."""
        self._nodes.close_all(self._timeout)
