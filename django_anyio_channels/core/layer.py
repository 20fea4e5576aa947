"""The contract between the hub and a driver for one broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar

from .events import Event, PublishResult
from .exceptions import NotSupported

subscribing: ContextVar[str] = ContextVar("subscribing")
"""The name that is being subscribed to or unsubscribed from in this context.

A layer whose ``subscribe`` turns one name into several on the wire sets it as their events' `Event.subscription`, so
that they reach the one subscriber.
"""


Reencryption = Callable[[bytes, str, str, float], bytes | None]
"""See `BaseChannelLayer.set_reencryption`."""


class BaseChannelLayer(ABC):
    """A driver for one broker. It carries bytes; `Channel` adds reconnecting, encoding and mailboxes.

    A layer must provide six verbs, and keep these promises:

    1.  `connect` tries once; on failure it raises `ListenerClosed` naming the address, and leaves nothing open.
    2.  `disconnect` may be called at any time, twice, half connected; every call pending on the layer then ends
        with `ListenerClosed`.
    3.  After `disconnect`, `connect` begins a new session without subscriptions.
    4.  `subscribe` returns when a later publish by anyone will be seen.
    5.  `unsubscribe` of an unknown group does nothing.
    6.  `publish` of up to 1 MB arrives whole and equal, or raises. It returns when the broker has accepted the
        message. It never waits for readers.
    7.  Events of one publisher in one group arrive in order, once.
    8.  `next_published` has one reader and may be cancelled without losing an event.
    9.  Any verb may raise `ListenerClosed`: the session is over. No other exception means "the broker went away".
    10. Concurrent calls from several tasks are safe.
    11. A silent connection (half open, wedged broker) is noticed within the probe interval and ends the session.

    `subscribe` and `unsubscribe` may be cancelled and called again; the last call that returns decides.
    One layer object serves one event loop and one session at a time.

    History, patterns and queues are optional: a layer overrides all verbs of such a section, or none. A Django channel
    layer needs queues for its normal channels (``runworker``). `core.capabilities` holds what else a layer may offer.
    """

    @property
    def address(self) -> str:
        """The broker's URL without secrets, for errors and logs."""
        return type(self).__name__

    @property
    def returns_bound_queues(self) -> bool:
        """Whether `publish` returns the queues that are bound to a group, so that they may be at another broker."""
        return False

    @property
    def needs_asyncio(self) -> bool:
        """Whether the layer runs on asyncio's event loops only (uvloop's are such), not on trio's."""
        return False

    @abstractmethod
    async def connect(self) -> None:
        """Begin a session. Raises `ListenerClosed`."""

    @abstractmethod
    async def disconnect(self) -> None:
        """End the session, if there is one. Never raises for a broker that is gone."""

    @abstractmethod
    async def subscribe(self, groups: str) -> None:
        """Have `next_published` return everything that is published to ``groups`` from now on.

        `Channel` passes one name. A custom layer may read several out of it; their events then carry the one name as
        `Event.subscription`.
        """

    @abstractmethod
    async def unsubscribe(self, groups: str) -> None:
        """Undo `subscribe`."""

    @abstractmethod
    async def publish(self, group: str, message: bytes) -> PublishResult | int | None:
        """Publish, and return what the broker says of it, or just the number of receivers, or None.

        Raises `PayloadTooLarge` for what this broker cannot carry.
        """

    async def count_subscribers(self, group: str) -> int | None:
        """Return how many nodes subscribe to ``group`` by its name; None if it is unknown, or what `publish` returns.

        It is asked only of the topics that a node subscribes to first. Subscribers of these topics ignore empty
        messages, so a layer may publish one as a probe.
        """
        return None

    @abstractmethod
    async def next_published(self) -> Event[bytes]:
        """Wait for the next event of any subscription.

        If the broker expects an acknowledgement, the event carries an `AckHandle`, retained once for `Channel`.
        """

    def set_event_handler(self, handler: Callable[[Event[bytes]], None]) -> None:  # noqa: B027 - optional
        """Register a callback that receives events synchronously instead of through `next_published`.

        Called after `connect`, and again when the handler changes; valid until the session ends. A layer may call
        ``handler`` in its event loop's thread for an event with none before it waiting for `next_published`. It neither
        waits nor raises.
        """

    def set_scope(self, prefix: str) -> None:  # noqa: B027 - optional
        """Set the prefix of the names that this node uses. Call before `connect`.

        Messages of this package's own between nodes are for the nodes of the same scope.
        """

    def set_acknowledged(self, is_acknowledged: Callable[[str], bool]) -> None:  # noqa: B027 - optional
        """Register, before `connect`, which queues are for `SupportsAcknowledgement.receive_job` and never for `take`.

        A layer that keeps other queues less durably keeps these as durably as it can.
        """

    def set_reencryption(self, reencrypt: Reencryption) -> None:  # noqa: B027 - optional
        """Register, before `connect`, what a layer calls that itself puts a group's messages into bound queues.

        ``reencrypt(message, group, queue, expiry)`` returns what to put, or None for a message that is not for this
        queue; it raises `DecodeError` for one to drop.
        """

    # ---- history ------------------------------------------------------------------------------------------------

    @property
    def retention(self) -> float:
        """The greatest age in seconds of a group's message that the broker hands out, from a history or a session."""
        return 0.0

    def subscriptions_restored(self) -> bool:
        """Called after every subscription of the previous session has been re-established.

        Return whether nothing was missed: True from a layer that has emitted what was published meanwhile, or a `Gap`
        for each subscription where it cannot.
        """
        return False

    def disable_history(self, group: str) -> None:  # noqa: B027 - optional
        """Disable history for ``group``. Call before `connect`."""

    async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
        """Return the events after the position ``since``, oldest first, or else the last ones; ``limit`` at most.

        Raises `PositionLost` if an event after ``since`` is no longer kept, and `InvalidPosition` for a string that is
        not a position.
        """
        raise self._no_history()

    async def position(self, group: str) -> str:
        """Return the current end of a group's history: the position of its last event, or before its first."""
        raise self._no_history()

    def is_after(self, position: str, other: str) -> bool:
        """Return whether ``position`` comes after ``other`` in the history of their group."""
        raise self._no_history()

    def published_at(self, position: str) -> float | None:
        """Return when the broker got the event at a position, in seconds since the epoch by its clock.

        None where positions do not tell.
        """
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
        """Append to a queue, where the message waits up to ``expiry`` seconds for a reader.

        Raises `QueueFull` when ``capacity`` messages wait already. The order of one sender is kept.
        """
        raise self._no_queues()

    async def take(self, queue: str) -> bytes:
        """Wait for the oldest message of a queue and remove it; exactly one reader of all processes gets it.

        Any number of tasks may wait. Cancelling loses nothing: a message that was taken for a cancelled reader goes to
        another reader, or back to the head of the queue.
        """
        raise self._no_queues()

    async def bind(self, group: str, queue: str, *, capacity: int, expiry: float, lifetime: float) -> None:
        """Have each message that any node publishes to ``group`` put into ``queue``, too, once.

        A full queue drops the message. The binding ends with `unbind`, or ``lifetime`` seconds after the last `bind`.
        In effect for every later publish when it returns.
        """
        raise self._no_queues()

    async def unbind(self, group: str, queue: str) -> None:
        """Undo `bind`; an unknown binding is not an error."""
        raise self._no_queues()

    async def purge(self, prefix: str) -> None:
        """Empty all queues and end all bindings whose names begin with ``prefix``."""
        raise self._no_queues()

    def _no_queues(self) -> NotSupported:
        return NotSupported(
            f"{type(self).__name__} has no queues, so it cannot carry normal channels; "
            f"use new_channel() names or groups, or override put, take, bind, unbind and purge"
        )
