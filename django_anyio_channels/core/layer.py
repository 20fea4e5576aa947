"""The contract between the hub and a driver for one broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, runtime_checkable

from .events import Event
from .exceptions import NotSupported

subscribing: ContextVar[str] = ContextVar("subscribing")
"""The name that the hub is having subscribed or unsubscribed in this context.

A layer whose ``subscribe`` turns one name into several on the wire marks their events with it
(`Event.subscription`), so that they find back to the one subscriber.
"""


class BaseChannelLayer(ABC):
    """A driver for one broker. It carries bytes and knows nothing of reconnecting, encoding or mailboxes.

    A layer must provide six verbs, and keep these promises:

    1.  `connect` tries once; on failure it raises `ListenerClosed` naming the address, and leaves nothing open.
    2.  `disconnect` may be called at any time, twice, half connected; every call pending on the layer then ends
        with `ListenerClosed`.
    3.  After `disconnect`, `connect` gives a fresh life with no subscriptions.
    4.  `subscribe` returns when a later publish by anyone will be seen.
    5.  `unsubscribe` of an unknown group does nothing.
    6.  `publish` of up to 1 MB arrives whole and equal, or raises. It returns when the broker has accepted the
        message. It never waits for readers.
    7.  Events of one publisher in one group arrive in order, once.
    8.  `next_published` has one reader and may be cancelled without losing an event.
    9.  Any verb may raise `ListenerClosed`: that life is over. No other exception means "the broker went away".
    10. Concurrent calls from several tasks are safe.
    11. A silent link (half open, wedged broker) is noticed within the probe interval and ends the life.

    `subscribe` and `unsubscribe` may be cancelled and called again; the last call that returns decides.
    One layer object serves one event loop and one life at a time.

    Patterns and queues are optional: a layer that has them overrides the verbs below the line, all or none of a
    kind. A Django channel layer needs queues for its normal channels (``runworker``).
    """

    @property
    def address(self) -> str:
        """What errors and logs call the broker: its URL without secrets."""
        return type(self).__name__

    @property
    def parts(self) -> Sequence[BaseChannelLayer]:
        """The layers that this one consists of, if it is spread over several brokers; else itself.

        The hub gives each of them a life of its own, so that the others go on when one broker is gone.
        """
        return (self,)

    def part_of(self, name: str) -> BaseChannelLayer:
        """Which of `parts` has a group or a queue."""
        return self

    @abstractmethod
    async def connect(self) -> None:
        """Open one life. Raises `ListenerClosed`."""

    @abstractmethod
    async def disconnect(self) -> None:
        """End this life, if there is one. Never raises for a broker that is gone."""

    @abstractmethod
    async def subscribe(self, groups: str) -> None:
        """Have everything that is published to ``groups`` from now on returned by `next_published`.

        The hub passes one name. A custom layer may read several out of it; their events then say so in
        `Event.subscription`.
        """

    @abstractmethod
    async def unsubscribe(self, groups: str) -> None:
        """Undo `subscribe`."""

    @abstractmethod
    async def publish(self, group: str, message: bytes) -> int | None:
        """Publish, and return how many nodes the broker handed the message to (None where it doesn't say).

        Raises `PayloadTooLarge` for what this broker cannot carry.
        """

    async def listeners(self, group: str) -> int | None:
        """How many nodes are subscribed to ``group``, where `publish` does not say it but the broker can be asked.

        It is asked of the few topics that a node subscribes to before anything else; who does ignores empty messages,
        so a layer may publish one to find out. None means unknown.
        """
        return None

    @abstractmethod
    async def next_published(self) -> Event[bytes]:
        """Wait for the next event of any subscription.

        If the broker wants it acknowledged, the event carries a `Receipt`, held once; the hub settles that.
        """

    def deliver_at_once(self, deliver: Callable[[Event[bytes]], None]) -> None:  # noqa: B027 - a layer may ignore it
        """Be told, once after `connect`, of a way around `next_published` that ends with this life.

        A layer that has an event at hand, in its event loop's own thread, with none before it waiting for
        `next_published`, may give it to ``deliver``, which neither waits nor raises. That saves a turn of the loop.
        """

    # ---- history ------------------------------------------------------------------------------------------------

    def restored(self) -> bool:
        """Be told that all that is still wanted of what the life before was subscribed to is subscribed to again.

        Returns whether nothing was missed in between: True from a layer that has handed out what was published
        meanwhile, or a `Gap` for each subscription of which it can't.
        """
        return False

    def keep_no_history(self, group: str) -> None:  # noqa: B027 - most layers keep none
        """Be told, before `connect`, of a group whose messages mean nothing to those who come later."""

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        """The events after the position ``since``, the oldest first, or else the last ones; ``limit`` at most.

        Raises `PositionLost` if something that came after ``since`` is no longer known, and `InvalidPosition` for what
        is no position.
        """
        raise self._no_history()

    async def position(self, group: str) -> str:
        """Where the history of a group ends just now: the position of its last event, or before its first."""
        raise self._no_history()

    def is_after(self, position: str, other: str) -> bool:
        """Whether an event came after another one of its group."""
        raise self._no_history()

    def _no_history(self) -> NotSupported:
        return NotSupported(f"{type(self).__name__} keeps no history; use a layer that does, such as redis+streams://")

    # ---- patterns -----------------------------------------------------------------------------------------------

    async def subscribe_pattern(self, pattern: str) -> None:
        """Like `subscribe`, for every group whose name matches; its events carry ``subscription=pattern``.

        What a pattern may contain is the broker's own language.
        """
        raise NotSupported(f"{type(self).__name__} has no pattern subscriptions; subscribe to each group by its name")

    async def unsubscribe_pattern(self, pattern: str) -> None:
        """Undo `subscribe_pattern`."""
        raise NotSupported(f"{type(self).__name__} has no pattern subscriptions; subscribe to each group by its name")

    # ---- queues -------------------------------------------------------------------------------------------------

    async def put(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """Append to a queue, where the message waits for a reader for ``expiry`` seconds.

        Raises `QueueFull` when ``capacity`` messages wait already. The order of one sender is kept.
        """
        raise self._no_queues()

    async def take(self, queue: str) -> bytes:
        """Wait for the oldest message of a queue and remove it: of all readers of all processes exactly one gets it.

        Any number of tasks may wait. Cancelling loses nothing: what was already taken for a reader that has gone
        goes to another reader or back to the head of the queue.
        """
        raise self._no_queues()

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        """Have what is published to ``group`` put into ``queue`` too, once, whoever publishes it.

        A full queue drops the message. The binding ends with `unbind`, or ``lifetime`` seconds after the last `bind`.
        """
        raise self._no_queues()

    async def unbind(self, group: str, queue: str) -> None:
        """Undo `bind`; an unknown binding is no error."""
        raise self._no_queues()

    async def purge(self, prefix: str) -> None:
        """Empty all queues and end all bindings whose names begin with ``prefix``."""
        raise self._no_queues()

    def _no_queues(self) -> NotSupported:
        return NotSupported(
            f"{type(self).__name__} has no queues, so it cannot carry normal channels; "
            f"use new_channel() names or groups, or override put, take, bind, unbind and purge"
        )


@runtime_checkable
class Acknowledging(Protocol):
    """What a layer offers that hands an event out again, to somebody else, until one has acknowledged it.

    Such an event carries a `Receipt`, held once for whoever took it. What was handed out too often is published to a
    group that is called dead letters, and no longer handed out.
    """

    @property
    def consumer_group(self) -> str | None:
        """The consumer group of subscriptions that name none."""

    @property
    def redeliver_after(self) -> float:
        """Seconds after which an event that was handed out, and not acknowledged, goes to another consumer."""

    async def join(self, group: str, consumer_group: str) -> None:
        """Have what is published to ``group`` from now on kept for the consumers of ``consumer_group``.

        Once somebody has joined, joining again changes nothing.
        """

    async def take_event(self, group: str, consumer_group: str, dead_letters: str) -> Event[bytes]:
        """Wait for the next event of a group that no other consumer has; cancelling loses nothing.

        Whoever waits is woken by `look`. Several may wait, of any number of consumer groups.
        """

    def bury_with(self, publish: Callable[[str, bytes], Awaitable[object]]) -> None:
        """From now on, publish dead letters with ``publish``, since their group may be at another broker."""

    def look(self, group: str) -> None:
        """Be told that something was published to ``group``."""

    async def take_job(self, queue: str, dead_letters: str) -> Event[bytes]:
        """`BaseChannelLayer.take`, to be acknowledged. A layer takes from a queue either so or without."""


def require_acknowledging(layer: BaseChannelLayer) -> Acknowledging:
    """Raise `NotSupported` if a layer cannot have what it hands out acknowledged."""
    if not isinstance(layer, Acknowledging):
        raise NotSupported(
            f"{type(layer).__name__} hands nothing out again, so there is nothing to acknowledge; "
            f"use a layer that does: redis+streams://"
        )
    return layer


class Put(Protocol):
    """`BaseChannelLayer.put`, or what stands for it."""

    def __call__(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> Awaitable[None]: ...


@runtime_checkable
class BindsElsewhere(Protocol):
    """What a layer offers whose groups can be bound to queues of another broker."""

    def put_bound_with(self, put: Put) -> None:
        """From now on, have `publish` put what goes to bound queues there with ``put``, instead of by itself."""


def require_binds_elsewhere(parts: Sequence[BaseChannelLayer]) -> None:
    """Raise `NotSupported` if ``parts`` are several, and a group of one cannot be bound to a queue of another."""
    if len(parts) > 1 and not isinstance(parts[0], BindsElsewhere):
        raise NotSupported(
            f"{type(parts[0]).__name__} cannot bind a group to a queue that another broker has, so normal channels "
            f"cannot be in groups; use one broker, or new_channel() names"
        )


@runtime_checkable
class BlockingPublisher(Protocol):
    """What a layer offers that can accept messages from any thread, with or without an event loop, at once."""

    def publish_blocking(self, group: str, message: bytes) -> None:
        """`BaseChannelLayer.publish` for callers that cannot await."""

    def put_blocking(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> None:
        """`BaseChannelLayer.put` for callers that cannot await."""


Result = TypeVar("Result")
Statements = Generator["tuple[str, Sequence[object]]", "Sequence[Sequence[Any]]", Result]
"""SQL for whoever has the connection: each statement, with ``$1`` and so on for its parameters, is sent its rows."""


@runtime_checkable
class TransactionalPublisher(Protocol):
    """What a layer offers whose broker is a database: the statements to publish in a transaction of somebody else's.

    They need no connected layer. ``encoding`` is the ``server_encoding`` of the connection that runs them.
    """

    def publish_in_transaction(self, group: str, message: bytes, *, encoding: str) -> Statements[int]:
        """`BaseChannelLayer.publish`; returns how many bound queues were full and missed the message."""

    def queues_in_transaction(self) -> Statements[bool]:
        """Whether there is what `put_in_transaction` needs; any verb of a connected layer's queues makes it."""

    def put_in_transaction(self, queue: str, message: bytes, *, capacity: int, expiry: float) -> Statements[bool]:
        """`BaseChannelLayer.put`; returns whether there was room."""

    def listeners_in_transaction(self, group: str) -> Statements[int]:
        """`BaseChannelLayer.listeners`, as seen in the database of that connection."""
