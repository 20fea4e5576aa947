"""Which event loop's node carries a call: the caller's own, another one of this process, or none at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ..core.capabilities import SupportsBlockingPublish, SupportsTransactions
from ..core.exceptions import ChannelClosed, QueueFull
from . import event_loops as loops
from .config import Settings
from .cross_loop import LoopEnded, start_in, wait_blocking, wait_here
from .names import Naming, node_of
from .node import Node, open_node

T = TypeVar("T")
Call = Callable[[Node], Coroutine[Any, Any, T]]

_VISITS_BEFORE_MOVING_IN = 16


class Courier:
    """Carries the calls of every thread and event loop of this process.

    A loop that receives has a node of its own. One that only publishes asks a node of another loop, so that a short
    life costs no connection; one that keeps publishing gets its own. A broker that takes messages from any thread is
    handed them at once.
    """

    def __init__(self, settings: Settings, naming: Naming) -> None:
        self._settings = settings
        self._naming = naming
        self._nodes = loops.PerLoop(lambda: open_node(settings, naming))
        self.node: Callable[[], Node | None] = self._nodes.current
        """The node of the running loop, if it is open already."""
        layer = settings.make_layers()[0]
        self._blocking_publisher = layer if isinstance(layer, SupportsBlockingPublish) else None
        self.transactional_publisher = layer if isinstance(layer, SupportsTransactions) else None
        # The link may be waited for twice (to open a node, and to use it) before the broker answers or does not.
        self._patience = 3 * settings.publish_timeout

    @property
    def nodes(self) -> list[Node]:
        """Every open node of this process."""
        return self._nodes.all_open()

    # ---- publishing -----------------------------------------------------------------------------------------------

    async def publish(self, topic: str, frame: bytes) -> None:
        node = self._nodes.current()
        if node is not None:
            await node.channel.publish_payload(topic, frame)
        elif self._blocking_publisher is not None:
            self._publish_blocking(self._blocking_publisher, topic, frame)
        else:
            await self._by_any_node(lambda node: node.publish(topic, frame))

    async def put(self, channel: str, frame: bytes) -> None:
        node = self._nodes.current()
        if node is not None:
            await node.put(channel, frame)
        elif self._blocking_publisher is not None:
            self._put_blocking(self._blocking_publisher, channel, frame)
        else:
            await self._by_any_node(lambda node: node.put(channel, frame))

    def publish_sync(self, topic: str, frame: bytes) -> None:
        if self._blocking_publisher is not None:
            self._publish_blocking(self._blocking_publisher, topic, frame)
        else:
            self._call_sync(lambda node: node.publish(topic, frame), ChannelClosed)

    def put_sync(self, channel: str, frame: bytes) -> None:
        if self._blocking_publisher is not None:
            self._put_blocking(self._blocking_publisher, channel, frame)
        else:
            self._call_sync(lambda node: node.put(channel, frame), ChannelClosed)

    def _publish_blocking(self, publisher: SupportsBlockingPublish, topic: str, frame: bytes) -> None:
        for queue, capacity, expiry in publisher.publish_blocking(topic, frame).bound_queues:
            with suppress(QueueFull):
                publisher.put_blocking(queue, frame, capacity=capacity, expiry=expiry)

    def _put_blocking(self, publisher: SupportsBlockingPublish, channel: str, frame: bytes) -> None:
        publisher.put_blocking(
            self._naming.queue(channel),
            frame,
            capacity=self._settings.capacity_of(channel),
            expiry=self._settings.expiry,
        )

    async def _by_any_node(self, call: Call[T]) -> T:
        if not loops.is_passing() and self._nodes.visits() > _VISITS_BEFORE_MOVING_IN:
            return await call(await self._nodes.here())
        try:
            return await self._hand_over(self._nodes.elsewhere(), call, _nothing, self._patience)
        except ChannelClosed:
            return await self._hand_over(loops.background.loop(), call, _nothing, self._patience)

    # ---- all else -------------------------------------------------------------------------------------------------

    async def call(self, call: Call[T]) -> T:
        """Let the running loop's own node do something; for a passing loop, the background loop's."""
        node = self._nodes.current()
        if node is None and loops.is_passing():
            return await self._hand_over(loops.background.loop(), call, _nothing, self._patience)
        return await call(node or await self._nodes.here())

    async def call_in(self, loop: loops.Loop, call: Callable[[], Awaitable[T]]) -> T:
        """Do something in one certain event loop of this process."""
        if loop is asyncio.get_running_loop():
            return await call()
        if loop.is_closed():
            raise LoopEnded("The event loop in which this was received has ended, and gave it back to others")

        async def carry(node: Node) -> T:
            return await call()

        return await self._hand_over(loop, carry, _nothing, self._patience)

    async def call_owner(self, channel: str, call: Call[T]) -> T:
        """Let the node do something in whose event loop a name was made."""
        node = self._nodes.current()
        if node is not None and node.id == node_of(channel):
            return await call(node)
        return await self._hand_over(self._owning_loop(channel), call, _nothing, self._patience)

    def call_sync(self, call: Call[T]) -> T:
        """Let any node do something that may be done twice, for a caller who cannot await."""
        return self._call_sync(call, ChannelClosed, LoopEnded)

    def _call_sync(self, call: Call[T], *nothing_lost: type[Exception]) -> T:
        """Ask another loop; if that one ends just now and nothing is lost by it, the background loop."""
        try:
            return self._wait_for(self._nodes.elsewhere(), call)
        except nothing_lost:
            return self._wait_for(loops.background.loop(), call)

    def _wait_for(self, loop: loops.Loop, call: Call[T]) -> T:
        return wait_blocking(start_in(loop, lambda: self._call_here(call), _nothing), self._patience)

    async def receive(self, channel: str) -> Any:
        """The next message of a channel, wherever in this process its name lives."""
        owner = node_of(channel)
        node = self._nodes.current()
        if owner is None:
            if node is None and loops.is_passing():
                return await self._receive_elsewhere(loops.background.loop(), channel)
            return await (node or await self._nodes.here()).receive(channel)
        if node is not None and node.id == owner:
            return await node.receive(channel)
        return await self._receive_elsewhere(self._owning_loop(channel), channel)

    def _owning_loop(self, channel: str) -> loops.Loop:
        loop = self._nodes.loop_of(lambda node: node.id == node_of(channel))
        if loop is None:
            raise ValueError(
                f"Nobody can receive on {channel!r} here: the process or event loop that made the name with "
                f"new_channel() is another one, or has ended"
            )
        return loop

    async def close(self) -> None:
        """Close the nodes of the running loop and of the background loop."""
        await self._nodes.close_here()
        loop = loops.background.loop_if_running
        if loop is not None:
            future = start_in(loop, self._nodes.close_here, _nothing)
            await wait_here(future, loop, _nothing, self._patience)

    def close_everywhere(self) -> None:
        """Close the nodes of every loop, from a thread that runs none. Who calls next opens another one."""
        self._nodes.close_all(self._patience)

    async def _receive_elsewhere(self, loop: loops.Loop, channel: str) -> Any:
        asked: list[Node] = []

        async def receive(node: Node) -> Any:
            asked.append(node)
            return await node.receive(channel)

        def put_back(message: Any) -> None:
            with suppress(ChannelClosed):  # the node has closed meanwhile, and its names are gone with it
                asked[0].put_back(channel, message)

        return await self._hand_over(loop, receive, put_back, None)

    async def _hand_over(
        self, loop: loops.Loop, call: Call[T], undo: Callable[[T], object], timeout: float | None
    ) -> T:
        future = start_in(loop, lambda: self._call_here(call), undo)
        return await wait_here(future, loop, undo, timeout)

    async def _call_here(self, call: Call[T]) -> T:
        return await call(self._nodes.current() or await self._nodes.here())


def _nothing(result: object) -> None:
    """There is nothing to undo."""
