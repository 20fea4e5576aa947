"""Which event loop carries a call: the caller's own, another one of this process, or none at all."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from django.core.exceptions import SynchronousOnlyOperation

from ..core.capabilities import SupportsBlockingPublish, SupportsTransactions
from ..core.exceptions import ChannelClosed, QueueFull
from ..core.stats import RateLimitedLogger
from ..core.telemetry import Recorder
from ..hub.session import Interruption
from .configuration.databases import close_before_teardown
from .messages.encryption import EncryptedPublisher
from .messages.envelope import payload_for
from .names import channel_of, node_of
from .nodes.node import Node, open_node
from .nodes.outages import Outages
from .nodes.totals import NodeTotals
from .process.background_loop import Loop, background
from .process.cross_loop import EventLoopBlocked, EventLoopClosed, submit, wait_async, wait_blocking
from .process.event_loops import LoopLocal, is_async_to_sync_loop
from .settings import Settings

T = TypeVar("T")
Call = Callable[[Node], Coroutine[Any, Any, T]]
_Errors = tuple[type[Exception], ...]

CALLS_BEFORE_OWN_NODE = 16
"""How often an event loop publishes through the node of another one before it opens its own."""

PATIENCE = 0.25
"""How many seconds another event loop has to begin a call before the background loop makes it."""


async def same_node(node: Node) -> Node:
    """The call that only asks for the node."""
    return node


def _refuse_event_loops() -> None:
    """Do what `django.utils.asyncio.async_unsafe` does, in a tenth of the time."""
    if asyncio._get_running_loop() is not None and not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise SynchronousOnlyOperation(
            "The methods that end in _sync block, so they cannot be called in an event loop: await the method without "
            "_sync, or use sync_to_async. Where blocking does no harm, set the environment variable "
            "DJANGO_ALLOW_ASYNC_UNSAFE"
        )


class Dispatcher:
    """Carries the calls of every thread and event loop of this process.

    An event loop that receives has a node of its own. One that only publishes uses the node of another loop, so that a
    short-lived loop costs no connection; one that keeps publishing opens its own. A broker that accepts messages from
    any thread gets them at once.
    """

    def __init__(self, settings: Settings, new_recorder: Callable[[], Recorder | None] = lambda: None) -> None:
        """``new_recorder`` returns what a node, or the callers without one, record with; None to measure nothing."""
        self._settings = settings
        self.totals: NodeTotals = NodeTotals(new_recorder)
        self.outages: Outages = Outages()
        self._nodes = LoopLocal(self._open_node)
        if settings.database:
            close_before_teardown(self._nodes)
        self.node_of_loop: dict[Loop, Node] = self._nodes.resources
        """The open node of each event loop. Read by the layer itself, which saves a call for each message."""
        layer, *others = settings.make_layers()
        publisher: Any = layer
        if settings.encryption is not None:
            publisher = EncryptedPublisher(layer, settings.encryption, max(settings.expiry, layer.retention))
        # Of several brokers each has some of the names, and a layer knows its own broker only.
        self._unmeasured_publisher = publisher
        blocking = isinstance(layer, SupportsBlockingPublish) and not others
        self._blocking_publisher: SupportsBlockingPublish | None = self.totals.timed(publisher) if blocking else None
        transactional = isinstance(layer, SupportsTransactions) and not others
        self.transactional_publisher: SupportsTransactions | None = publisher if transactional else None
        self._log = RateLimitedLogger()
        # A call may wait for the connection twice (to open a node, and to use it), and then for the broker's answer.
        self._timeout = 3 * settings.publish_timeout

    @property
    def nodes(self) -> list[Node]:
        """Every open node of this process."""
        return [node for node in self._nodes.all_open() if not node.is_closed]

    @asynccontextmanager
    async def _open_node(self) -> AsyncGenerator[Node, None]:
        async with open_node(self._settings, self.outages, self.totals.new_recorder()) as node:
            try:
                yield node
            finally:
                self.totals.close(node)

    @property
    def paused_nodes(self) -> list[tuple[Loop, Node]]:
        """The open nodes of this thread's event loops that do not run, with these loops."""
        return self._nodes.paused_here()

    @property
    def publishes_blocking(self) -> bool:
        """Whether the broker accepts messages without a node."""
        return self._blocking_publisher is not None

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
        _refuse_event_loops()
        if not self._publish_blocking(topic, payload):
            self.call_sync(lambda node: node.publish(topic, payload), repeat_after=(ChannelClosed,))

    def put_sync(self, channel: str, payload: bytes) -> None:
        """`put` for a caller that cannot await."""
        _refuse_event_loops()
        if not self._put_blocking(channel, payload):
            self.call_sync(lambda node: node.put(channel, payload), repeat_after=(ChannelClosed,))

    def _publish_blocking(self, topic: str, payload: bytes) -> bool:
        """Publish if the broker accepts messages from any thread; return whether it does."""
        publisher = self._blocking_publisher
        if publisher is not None:
            for queue, capacity, expiry in publisher.publish_blocking(topic, payload).bound_queues:
                message = payload_for(channel_of(queue), payload)
                if message is None:
                    continue
                try:
                    self._unmeasured_publisher.put_blocking(queue, message, capacity=capacity, expiry=expiry)
                except QueueFull:
                    self._log.write(logging.WARNING, "Dropped a message to %s for the full queue %s", topic, queue)
        return publisher is not None

    def _put_blocking(self, channel: str, payload: bytes) -> bool:
        publisher = self._blocking_publisher
        if publisher is not None:
            queue, capacity, expiry = self._settings.queue_of(channel)
            publisher.put_blocking(queue, payload, capacity=capacity, expiry=expiry)
        return publisher is not None

    async def carry(self, call: Call[T]) -> T:
        """Call with the running loop's own node if it is open, or else with that of any loop."""
        node = self._nodes.current()
        return await (call(node) if node is not None else self._call_any_node(call))

    async def _call_any_node(self, call: Call[T]) -> T:
        if not is_async_to_sync_loop() and self._nodes.call_count() > CALLS_BEFORE_OWN_NODE:
            return await self._call_here(call)
        loop = self._nodes.any_other()
        try:
            return await self._call_in(loop, call, patience=PATIENCE)
        except EventLoopBlocked:
            self._nodes.set_blocked(loop)
        except ChannelClosed:
            pass
        return await self._call_in(background.loop(), call)

    def call_sync(self, call: Call[T], *, repeat_after: _Errors = (ChannelClosed, EventLoopClosed)) -> T:
        """Call with the node of another loop; if that loop is just ending, once more with the background loop's.

        After `EventLoopClosed` the first call may have had its effect.
        """
        _refuse_event_loops()

        def call_in(loop: Loop, patience: float | None = None) -> T:
            submission = submit(loop, lambda: self._call_here(call))
            return wait_blocking(submission, self._timeout, patience=patience)

        loop = self._nodes.any_other()
        try:
            return call_in(loop, PATIENCE)
        except EventLoopBlocked:
            self._nodes.set_blocked(loop)
        except repeat_after:
            pass
        return call_in(background.loop())

    async def call(self, call: Call[T]) -> T:
        """Call with the running loop's own node, opened if need be; for a short-lived loop, the background loop's."""
        node = self._nodes.current()
        return await (call(node) if node is not None else self._call_in(self._own_loop(), call))

    async def call_owner(self, channel: str, call: Call[T]) -> T:
        """Call with the node that made the name of a channel."""
        return await self._call_in(self._owning_loop(channel), call)

    async def call_in(self, loop: Loop, call: Callable[[], Awaitable[T]]) -> T:
        """Await something in one certain event loop of this process."""
        if not loop.is_running():
            raise EventLoopClosed(
                "The event loop that received this does not run; if it has ended, it returned it to the other readers"
            )
        return await self._run_in(loop, call)

    async def receive(self, channel: str) -> Any:
        """Wait for the next message of a channel, whichever event loop of this process it belongs to."""
        node, owner = self._nodes.current(), node_of(channel)
        is_normal = "!" not in channel
        if node is not None and (is_normal or owner == node.id):
            return await node.receive(channel)
        loop = self._own_loop() if is_normal else self._owning_loop(channel)
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
        return background.loop() if is_async_to_sync_loop() else asyncio.get_running_loop()

    def _owning_loop(self, channel: str) -> Loop:
        owner = node_of(channel)
        for loop, node in self.node_of_loop.copy().items():
            if node.id == owner and loop.is_running():
                return loop
        raise ValueError(
            f"Cannot receive on {channel!r} here: the process or event loop that made the name with "
            f"new_channel() is another one, has ended, or does not run"
        )

    async def _call_in(self, loop: Loop, call: Call[T], *, patience: float | None = None) -> T:
        return await self._run_in(loop, lambda: self._call_here(call), patience)

    async def _run_in(self, loop: Loop, call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
        if loop is asyncio.get_running_loop():
            return await call()
        return await wait_async(submit(loop, call), loop, self._timeout, patience=patience)

    async def _call_here(self, call: Call[T]) -> T:
        return await call(await self.own_node())

    async def own_node(self) -> Node:
        """Return the running loop's node, opened if need be, also in a short-lived loop."""
        return self._nodes.current() or await self._nodes.get_or_open()

    @contextmanager
    def outage(self, interruption: Interruption) -> Iterator[None]:
        """Have the brokers count as unreachable during the block."""
        publisher, self._blocking_publisher = self._blocking_publisher, None
        try:
            with self.outages.during(interruption):
                yield
        finally:
            self._blocking_publisher = publisher

    async def close(self) -> None:
        """Close the nodes of the running loop and of the background loop."""
        await self._nodes.close_current()
        loop = background.loop_if_running
        if loop is not None:
            await self._run_in(loop, self._nodes.close_current)

    def close_soon(self) -> None:
        """Have the nodes of every loop closed, because nobody can call this any more."""
        self._nodes.close_soon()
