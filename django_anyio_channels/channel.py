"""The hub's face: publish, subscribe, and queues over one layer that is kept alive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar

import anyio

from .exceptions import ChannelClosed, DeliveryUnknown, ListenerClosed
from .layers.base import BaseChannelLayer
from .link import Backoff, Link
from .losses import Losses
from .serializers import MessagePackSerializer, Serializer, encode_within
from .subscriber import Subscriber
from .topics import Sink, Topics
from .waiting import NewWaiter, waiter_factory

T = TypeVar("T")


class Channel:
    """One layer, open from ``async with`` to its end, for any number of tasks of one event loop.

    It connects in the background and again after every loss of the link, restores the subscriptions, and hands each
    event to every subscriber that wants it. Calls that need the broker wait up to ``publish_timeout`` seconds for a
    link and then raise `ListenerClosed`.

    ``serializer`` turns messages into bytes (default: MessagePack). ``capacity`` and ``expiry`` (seconds, None for no
    limit) are a subscriber's defaults. ``max_message_size`` limits an encoded message, in bytes. ``backoff`` says when
    to try to connect again. ``on_gap`` is called with the length in seconds of an outage when the link is back, after
    the subscriptions have been restored: what others published meanwhile was missed.
    """

    def __init__(
        self,
        layer: BaseChannelLayer,
        *,
        serializer: Serializer | None = None,
        capacity: int = 100,
        expiry: float | None = 60.0,
        publish_timeout: float = 10.0,
        max_message_size: int = 4 * 1024 * 1024,
        backoff: Backoff | None = None,
        on_gap: Callable[[float], None] | None = None,
    ) -> None:
        self.layer = layer
        self.serializer = serializer or MessagePackSerializer()
        self.losses = Losses()
        """What subscribers could not keep, summed up."""
        self._capacity = capacity
        self._expiry = expiry
        self._publish_timeout = publish_timeout
        self._max_message_size = max_message_size
        self._backoff = backoff or Backoff()
        self._on_gap = on_gap or _no_report
        self._running: AsyncExitStack | None = None
        self._link: Link | None = None
        self._new_waiter: NewWaiter
        self._topics: Topics

    async def __aenter__(self) -> Channel:
        if self._running is not None:
            raise RuntimeError("This Channel is open already; make another one with a layer of its own")
        self._new_waiter = waiter_factory()
        link = Link(self.layer, on_gap=self._on_gap, timeout=self._publish_timeout, backoff=self._backoff)
        topics = Topics(self.layer, link.up, self._new_waiter)
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            stack.callback(topics.close)
            stack.callback(link.close)
            tasks.start_soon(link.run, topics.deliver, topics.restore)
            tasks.start_soon(topics.tidy)
            self._running = stack.pop_all()
        self._link, self._topics = link, topics
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        running, self._running, self._link = self._running, None, None
        if running is not None:
            await running.aclose()

    # ---- messages -----------------------------------------------------------------------------------------------

    def encode(self, message: Any) -> bytes:
        """The frame of a message. Raises `TypeError` for what cannot be encoded, `PayloadTooLarge` above the limit."""
        return encode_within(self._max_message_size, self.serializer, message)

    async def publish(self, group: str, message: Any) -> int | None:
        """Publish a message to every subscriber of ``group``; returns when the broker has accepted it.

        Returns how many nodes the broker handed it to, if the broker says so. Raises `TypeError` and `PayloadTooLarge`
        as `encode` does, `ListenerClosed` if there was no link for ``publish_timeout`` seconds (nothing was sent), and
        `DeliveryUnknown` if the link broke before the broker answered.
        """
        return await self.publish_frame(group, self.encode(message))

    async def publish_frame(self, group: str, frame: bytes) -> int | None:
        """`publish` for what is encoded already."""
        link = self._link or self._open_link()
        life = link.life or await link.up()
        try:
            return await self.layer.publish(group, frame)
        except ListenerClosed as error:
            life.end(error)
            raise self._unknown(f"to {group}", error) from error

    async def listeners(self, group: str) -> int | None:
        """`BaseChannelLayer.listeners`."""
        return await self._insist(lambda: self.layer.listeners(group))

    @asynccontextmanager
    async def subscribe(
        self,
        *groups: str,
        pattern: str | None = None,
        capacity: int | None = None,
        expiry: float | None = None,
        ack: Literal["auto", "manual"] = "auto",
    ) -> AsyncGenerator[Subscriber, None]:
        """Subscribe to groups, to all groups that match a pattern, or both.

        Entering returns when the subscription is in effect: what anyone publishes afterwards is seen. Leaving in any
        way leaves the Channel usable. Raises `NotSupported` for a pattern that the broker cannot do, and
        `ListenerClosed` if there was no link for ``publish_timeout`` seconds. An event that matches several of the
        names comes once for each. ``capacity`` and ``expiry`` (`math.inf` for no limit) replace the Channel's own.

        Where the broker wants events acknowledged, so that it hands them out again after a crash, that is done when a
        reader takes one; with ``ack="manual"`` only when the reader calls `Event.ack`.
        """
        if ack not in ("auto", "manual"):
            raise ValueError(f"ack is {ack!r}; it must be 'auto' or 'manual'")
        names = [*((group, False) for group in groups), *([] if pattern is None else [(pattern, True)])]
        if not names:
            raise TypeError("subscribe() needs at least one group or a pattern")
        subscriber = self.mailbox(
            ", ".join(name for name, _ in names), capacity=capacity, expiry=expiry, manual_ack=ack == "manual"
        )
        try:
            for name, is_pattern in names:
                await self._open_topics().attach(name, subscriber, pattern=is_pattern)
            yield subscriber
        finally:
            for name, is_pattern in names:
                self._topics.detach(name, subscriber, pattern=is_pattern)
            subscriber.close()
            subscriber.clear()

    # ---- sinks --------------------------------------------------------------------------------------------------

    def mailbox(
        self, name: str, *, capacity: int | None = None, expiry: float | None = None, manual_ack: bool = False
    ) -> Subscriber:
        """A subscriber that listens to nothing yet; see `attach`."""
        self._open_link()
        return Subscriber(
            name,
            capacity=self._capacity if capacity is None else capacity,
            expiry=self._expiry if expiry is None else expiry,
            decode=self.serializer.decode,
            new_waiter=self._new_waiter,
            losses=self.losses,
            manual_ack=manual_ack,
        )

    async def attach(self, group: str, sink: Sink) -> None:
        """Have the events of a group put into ``sink`` too. In effect when it returns; if it raises, not at all."""
        await self._open_topics().attach(group, sink)

    def detach(self, group: str, sink: Sink) -> None:
        """Undo `attach`, at once; nothing to do once the Channel is closed."""
        if self._link is not None:
            self._topics.detach(group, sink)

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, frame: bytes, *, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put`; raises `ListenerClosed` and `DeliveryUnknown` as `publish` does."""
        life = await self._open_link().up()
        try:
            await self.layer.put(queue, frame, capacity=capacity, expiry=expiry)
        except ListenerClosed as error:
            life.end(error)
            raise self._unknown(f"to queue {queue}", error) from error

    async def take(self, queue: str) -> bytes:
        """`BaseChannelLayer.take`, over any number of outages."""
        while True:
            try:
                return await self._insist(lambda: self.layer.take(queue))
            except ChannelClosed:
                raise
            except ListenerClosed:
                continue

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        """`BaseChannelLayer.bind`."""
        await self._insist(lambda: self.layer.bind(group, queue, capacity=capacity, expiry=expiry, lifetime=lifetime))

    async def unbind(self, group: str, queue: str) -> None:
        """`BaseChannelLayer.unbind`."""
        await self._insist(lambda: self.layer.unbind(group, queue))

    async def purge(self, prefix: str) -> None:
        """`BaseChannelLayer.purge`."""
        await self._insist(lambda: self.layer.purge(prefix))

    # ---- state --------------------------------------------------------------------------------------------------

    async def connected(self) -> None:
        """Wait for the link. Raises `ListenerClosed` after ``publish_timeout`` seconds."""
        await self._open_link().up()

    @property
    def outages(self) -> int:
        """How often an established link was lost."""
        return self._open_link().outages

    @property
    def topics(self) -> int:
        """How many groups and patterns this node listens to."""
        return len(self._open_topics())

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice until it succeeds, or until there is no link for too long."""
        while True:
            life = await self._open_link().up()
            try:
                return await call()
            except ListenerClosed as error:
                life.end(error)

    def _open_link(self) -> Link:
        if self._link is None:
            raise ChannelClosed(f"The Channel to {self.layer.address} is not open; use it inside `async with`")
        return self._link

    def _open_topics(self) -> Topics:
        self._open_link()
        return self._topics

    def _unknown(self, what: str, error: ListenerClosed) -> DeliveryUnknown:
        return DeliveryUnknown(
            f"The link to {self.layer.address} broke while a message {what} was on its way; "
            f"it may or may not have arrived: {error}"
        )


def _no_report(seconds: float) -> None:
    """Whoever wants gaps reported passes ``on_gap``."""
