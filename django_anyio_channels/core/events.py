"""What layers emit, subscribers receive, and publishers get back."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

Message = TypeVar("Message")


class AckHandle(Protocol):
    """A reference count that a layer attaches to an event whose broker expects an acknowledgement.

    It starts at one, for the hub, which releases it after the fan-out; each mailbox that keeps the event retains it.
    At zero the event is acknowledged. Both methods are called in the event loop's thread, and neither waits nor raises.
    """

    def retain(self) -> None:
        """Increment the number of holders."""

    def release(self) -> Awaitable[None]:
        """Decrement the number of holders; the last call acknowledges the event.

        The result need not be awaited. Awaiting it waits until the acknowledgement is sent, or confirmed where the
        broker confirms it, and raises `ListenerClosed` if it cannot be sent any more.
        """


@dataclass(slots=True)
class Event(Generic[Message]):
    """One message that was published to one group.

    Layers hand out events of ``bytes``; a subscriber gets events of the decoded object.
    """

    group: str
    """The group that the message was published to."""

    message: Message

    subscription: str | None = None
    """The pattern or composite name that the subscription was opened with, when it is not ``group`` itself."""

    ack_handle: AckHandle | None = field(default=None, repr=False, compare=False)
    """What `ack` releases; None if there is nothing to acknowledge, or after `ack`."""

    position: str | None = field(default=None, compare=False)
    """The event's position in its group's history; None where the broker keeps none.

    An opaque string of letters, digits and hyphens, for `Channel.history` and `Channel.subscribe`.
    """

    deliveries: int = field(default=1, compare=False)
    """How often the event has been delivered, this time included, where the broker counts deliveries."""

    def ack(self) -> Awaitable[None]:
        """Acknowledge this event at once. A second call does nothing.

        The result need not be awaited. Awaiting it waits until the acknowledgement is sent, and raises `ListenerClosed`
        if it cannot be sent any more; the event is delivered again then. Where nothing is to be acknowledged, this does
        nothing, so a program may call it on every layer.
        """
        ack_handle, self.ack_handle = self.ack_handle, None
        return DONE if ack_handle is None else ack_handle.release()


@dataclass(slots=True)
class Gap(Event[bytes]):
    """A placeholder that a layer emits for events that it cannot deliver any more; its message is empty.

    Subscribers do not get it; `Channel` reports it by ``on_missed``.
    """

    seconds: float | None = None
    """How long the gap is, if the connection was up meanwhile; None for the length of the last outage."""


class BoundQueue(NamedTuple):
    """A queue that is bound to a group, see `BaseChannelLayer.bind`."""

    queue: str
    capacity: int
    expiry: float
    """Seconds."""


class PublishResult(NamedTuple):
    """What the broker says of one published message."""

    receivers: int | None = None
    """How many nodes the broker handed the message to; None where it does not say."""

    position: str | None = None
    """The message's position in its group's history, as in `Event.position`; None where the broker keeps none."""

    bound_queues: Sequence[BoundQueue] = ()
    """The queues that are bound to the group and that the layer has not put the message into; `Channel` does."""


class _Done:
    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


DONE = _Done()
"""Awaiting it does nothing; any number of times."""
