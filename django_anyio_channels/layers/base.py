"""The contract between the hub and a driver for one broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from ..event import Event
from ..exceptions import NotSupported

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

        It is asked of the few topics that a node subscribes to before anything else. None means unknown.
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

    def report_gaps_to(self, report: Callable[[float], None]) -> None:  # noqa: B027 - most layers know of none
        """Be told, once after `connect`, whom to tell of a gap within this life.

        A layer that could not listen to some groups for a while, and lives on, calls ``report`` with the seconds.
        """

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
