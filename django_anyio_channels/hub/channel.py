"""`Channel`: publish, subscribe, and queues over layers that are kept connected."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import anyio

from ..core.encryption import Encryption
from ..core.events import Event, PublishResult
from ..core.exceptions import DecodeError, ListenerClosed
from ..core.layer import BaseChannelLayer
from ..core.notifier import NewWaiter, waiter_type
from ..core.serializers import MessagePackSerializer, Serializer, encode_limited
from ..core.stats import MAILBOX_BYTES, DeliveryStats
from .consumer_group import ConsumerGroupSink, DeadLetters, shared_by
from .encryption import ChannelEncryption
from .idempotency import IdempotentCalls
from .inspection import Inspection
from .overflow import read_overflow
from .presence import PresenceStore
from .queues import Queues
from .replay import ReplaySink, check_group, check_history_range, check_subscription
from .session import Backoff, Interruption
from .sharding import Shards
from .subscriber import Overflow, Subscriber
from .subscriptions import MarkedReader, Sink
from .supervisor import Supervisor


class Channel:
    """One layer, open from ``async with`` to its end, for any number of tasks of one event loop.

    It connects in the background, reconnects after every loss of the connection, restores the subscriptions, and hands
    each event to every subscriber. Calls that need the broker wait up to ``publish_timeout`` seconds for a connection
    and then raise `ListenerClosed`.

    ``layer`` may also be a list of layers of one class, each for a broker of its own: every group and every queue is at
    one of them, by its name. All programs must list the same brokers in the same order; a broker that is appended takes
    over its share of the names. While one is down, only its groups and queues wait.

    ``serializer`` turns messages into bytes (default: MessagePack), of which ``max_message_size`` is the limit and
    which ``encryption`` encrypts. ``capacity`` and ``expiry`` (seconds, None for no limit) are a subscriber's defaults;
    ``mailbox_bytes`` limits what waits for one behind the next message. ``backoff`` says when to connect again.
    ``on_gap`` is called with the length of an outage in seconds, after the subscriptions have been restored: what
    others published meanwhile was missed. A layer with a history misses nothing; where the history does not reach back,
    ``on_missed`` is called with the group (or the pattern) and those seconds, between the events before and after the
    gap. It is also called for a group that a cluster has moved, if something may have been missed, and for one whose
    subscription was refused for a time.
    """

    def __init__(
        self,
        layer: BaseChannelLayer | Sequence[BaseChannelLayer],
        *,
        serializer: Serializer | None = None,
        capacity: int = 100,
        expiry: float | None = 60.0,
        publish_timeout: float = 10.0,
        max_message_size: int = 4 * 1024 * 1024,
        mailbox_bytes: int = MAILBOX_BYTES,
        encryption: Encryption | None = None,
        backoff: Backoff | None = None,
        on_gap: Callable[[float], None] | None = None,
        on_missed: Callable[[str, float], None] | None = None,
        marked: MarkedReader | None = None,
    ) -> None:
        self._shards = Shards((layer,) if isinstance(layer, BaseChannelLayer) else layer)
        self.layer: BaseChannelLayer = self._shards.layers[0]
        """The layer, or the first one of a list."""
        self.serializer: Serializer = serializer or MessagePackSerializer()
        self._decode = self.serializer.decode  # one for all subscribers: each look-up would make another
        self.stats: DeliveryStats = DeliveryStats(mailbox_bytes)
        """What all subscribers together could not keep."""
        self._capacity = capacity
        self._expiry = expiry
        self._max_message_size = max_message_size
        self._marked = marked
        self._encryption = None if encryption is None else ChannelEncryption(encryption, self.layer, expiry, self.stats)
        self._new_supervisor = partial(
            Supervisor,
            encryption=self._encryption,
            stats=self.stats,
            on_gap=on_gap,
            on_missed=on_missed,
            timeout=publish_timeout,
            backoff=backoff or Backoff(),
            marked=marked,
        )
        self._running: AsyncExitStack | None = None
        self._dead_letters = DeadLetters(self.publish_payload, self._encryption, self.stats)
        self.queues: Queues = Queues(self._shards, self.stats, self._dead_letters, self._encryption, marked)
        self.idempotent: IdempotentCalls = IdempotentCalls(self._shards, self._encryption, self.queues)
        self.presence: PresenceStore = PresenceStore(self._shards, self._encryption)
        self.inspection: Inspection = Inspection(self._shards)

    async def __aenter__(self) -> Channel:
        if self._running is not None:
            raise RuntimeError("This Channel is already open; make another one with its own layer")
        self._new_waiter: NewWaiter = waiter_type()
        supervisors = tuple(self._new_supervisor(layer) for layer in self._shards.layers)
        async with AsyncExitStack() as stack:
            tasks = self._dead_letters.tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tasks.cancel_scope.cancel)
            for supervisor in supervisors:
                stack.callback(supervisor.close)
                tasks.start_soon(supervisor.run)
            self._running = stack.pop_all()
        self._shards.set_supervisors(supervisors)
        return self

    async def __aexit__(self, *error: object) -> None:
        running, self._running = self._running, None
        self._shards.set_supervisors(())
        if running is not None:
            await running.aclose()

    def encode(self, message: Any) -> bytes:
        """Encode a message. Raises `TypeError` for what cannot be encoded, `PayloadTooLarge` above the limit."""
        return encode_limited(self._max_message_size, self.serializer, message)

    async def publish(self, group: str, message: Any) -> PublishResult:
        """Publish a message to every subscriber of ``group``; returns when the broker has accepted it.

        Raises what `encode` raises, `ListenerClosed` if there was no connection for ``publish_timeout`` seconds
        (nothing was sent), and `DeliveryUnknown` if the connection broke before the broker answered.
        """
        return await self.publish_payload(group, self.encode(message))

    async def publish_payload(self, group: str, payload: bytes, *, lifetime: float | None = None) -> PublishResult:
        """`publish` for an encoded message, of which an encrypted copy is good for ``lifetime`` seconds."""
        supervisor = self._shards.only or self._shards.of(group)
        session = supervisor.session or await supervisor.wait_connected()
        message = payload if self._encryption is None else self._encryption.for_group(group, payload, lifetime)
        try:
            answer = await supervisor.layer.publish(group, message)
        except ListenerClosed as error:
            raise supervisor.delivery_unknown(session, f"to {group}", error) from error
        if not isinstance(answer, PublishResult):
            return PublishResult(answer)
        if answer.bound_queues:
            await self.queues.put_into_bound(answer.bound_queues, payload)
        return answer

    async def count_subscribers(self, group: str) -> int | None:
        """`BaseChannelLayer.count_subscribers`."""
        supervisor = self._shards.of(group)
        return await supervisor.retry(lambda: supervisor.layer.count_subscribers(group))

    async def history(self, group: str, *, since: str | None = None, limit: int | None = None) -> list[Event[Any]]:
        """Return what was published to ``group`` after the position ``since``, oldest first, or else the last events.

        ``limit`` is the greatest number of events. A position is that of an event, or of what `publish` returned.
        Raises `PositionLost` if the history no longer reaches back to it, `InvalidPosition` for what is not a position,
        and `NotSupported` if the broker keeps no history.
        """
        return self.decode_all(await self.history_payloads(group, since=since, limit=limit))

    def decode_all(self, events: Iterable[Event[bytes]]) -> list[Event[Any]]:
        """Return events with their messages decoded, without those that cannot be."""
        return list(_decode_all(events, self._decode, self.stats))

    async def history_payloads(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        """`history` without decoding."""
        check_history_range(group, since, limit)
        supervisor = self._shards.of(group)
        events = await supervisor.retry(lambda: supervisor.layer.history(group, since=since, limit=limit))
        return events if self._encryption is None else list(filter(None, map(self._encryption.decrypt, events)))

    async def position(self, group: str) -> str:
        """Return the current end of the history of ``group``. Raises `NotSupported` if the broker keeps none."""
        check_group(group)
        supervisor = self._shards.of(group)
        return await supervisor.retry(lambda: supervisor.layer.position(group))

    @asynccontextmanager
    async def subscribe(
        self,
        *groups: str,
        pattern: str | None = None,
        since: str | None = None,
        capacity: int | None = None,
        expiry: float | None = None,
        ack: Literal["auto", "manual"] = "auto",
        consumer_group: str | None = None,
        overflow: object = "drop_newest",
    ) -> AsyncGenerator[Subscriber, None]:
        """Subscribe to groups, to all groups that match a pattern, or both.

        Entering returns when the subscription is in effect for every later publish. Leaving in any way leaves the
        Channel usable. Raises `NotSupported` for a pattern that the broker does not support, and `ListenerClosed` if
        there was no connection for ``publish_timeout`` seconds. An event that matches several of the names comes once
        for each. ``capacity`` and ``expiry`` (`math.inf` for no limit) replace the Channel's own. ``overflow`` is
        what a full subscriber does, see `read_overflow`; with "close" it raises `SubscriberFull`.

        Where the broker expects acknowledgements, and delivers an event again after a crash, an event is acknowledged
        when a reader takes it; with ``ack="manual"`` only when the reader calls `Event.ack`.

        With ``since`` a subscription to one group begins at this position: the history after it comes first, then live
        events, each once and in order. The capacity is for those. It raises what `history` raises.

        The subscriptions of a ``consumer_group`` to one group, in all processes, share its events: each goes to one
        reader, when it waits. An event that is not acknowledged in time goes to another reader, and after too many
        deliveries to a group of dead letters (``jobs.workers.dead`` for the group "jobs" and the consumer group
        "workers"). A consumer group begins with its first subscription and outlives the last one.
        """
        policy = read_overflow(overflow, keeps_order=since is not None)
        check_subscription(groups, pattern, since, ack)
        names = [(group, False) for group in groups] + ([] if pattern is None else [(pattern, True)])
        consumer_group = shared_by(self.layer, consumer_group, groups, pattern, since)
        subscriber = self.mailbox(", ".join(dict(names)), capacity=capacity, expiry=expiry, overflow=policy)
        subscriber.manual_ack = ack == "manual"
        sink: Subscriber | ReplaySink | ConsumerGroupSink = subscriber
        if since is not None:
            sink = ReplaySink(subscriber, self.layer.is_after)
        elif consumer_group is not None:
            supervisor = self._shards.of(groups[0])
            sink = ConsumerGroupSink(subscriber, supervisor, groups[0], consumer_group, self._dead_letters)
        try:
            for name, is_pattern in names:
                await self.add_sink(name, sink, pattern=is_pattern)
            if since is not None and isinstance(sink, ReplaySink):
                history = await self.history_payloads(groups[0], since=since, limit=None)
                sink.start(since, history if self._marked is None else self._marked.of_history(history))
            if isinstance(sink, ConsumerGroupSink):
                await sink.join()
            yield subscriber
        finally:
            for name, is_pattern in names:
                self.remove_sink(name, sink, pattern=is_pattern)
            sink.close()
            subscriber.clear()

    def mailbox(
        self, name: str, *, capacity: int | None = None, expiry: float | None = None, overflow: Overflow | None = None
    ) -> Subscriber:
        """Return a subscriber without subscriptions; see `add_sink`."""
        self._shards.all()
        return (Subscriber if overflow is None else overflow.mailbox_class)(
            name,
            capacity=self._capacity if capacity is None else capacity,
            expiry=self._expiry if expiry is None else expiry,
            decode=self._decode,
            new_waiter=self._new_waiter,
            stats=self.stats,
            overflow=overflow,
        )

    async def add_sink(self, name: str, sink: Sink, *, pattern: bool = False) -> None:
        """Add a sink to a group or pattern. In effect when it returns; a group for which it raises does not have it."""
        for supervisor in self._shards.of_subscription(name, pattern=pattern):
            await supervisor.subscriptions.add_sink(name, sink, pattern=pattern)

    def has_sink(self, group: str, sink: Sink) -> bool:
        """Return whether `add_sink` was called, has not failed, and has not been undone."""
        return bool(self._shards.supervisors) and self._shards.of(group).subscriptions.has_sink(group, sink)

    def remove_sink(self, name: str, sink: Sink, *, pattern: bool = False) -> None:
        """Undo `add_sink`, at once; does nothing once the Channel is closed."""
        if self._shards.supervisors:
            for supervisor in self._shards.of_subscription(name, pattern=pattern):
                supervisor.subscriptions.remove_sink(name, sink, pattern=pattern)

    async def connected(self) -> None:
        """Wait for the connections to all brokers. Raises `ListenerClosed` after ``publish_timeout`` seconds."""
        for supervisor in self._shards.all():
            await supervisor.wait_connected()

    @property
    def outages(self) -> int:
        """How often an established connection was lost."""
        return sum(supervisor.outages for supervisor in self._shards.all())

    @property
    def subscriptions(self) -> int:
        """How many groups and patterns this node subscribes to; a pattern counts once for each broker."""
        return sum(len(supervisor.subscriptions) for supervisor in self._shards.all())


def _decode_all(
    events: Iterable[Event[bytes]], decode: Callable[[bytes], Any], stats: DeliveryStats
) -> Iterator[Event[Any]]:
    for event in events:
        try:
            yield replace(event, message=decode(event.message))
        except DecodeError as error:
            stats.count_undecodable(event.group, error)


def interrupt(channel: Channel, interruption: Interruption | None) -> None:
    """Have the brokers of an open Channel count as unreachable, until this is called with None."""
    for supervisor in channel._shards.supervisors:
        supervisor.interrupt(interruption)
