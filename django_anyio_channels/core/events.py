"""What a subscriber receives."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

Message = TypeVar("Message")


class Receipt(Protocol):
    """What a layer attaches to an event that its broker wants acknowledged.

    The layer makes it held once, for the hub, which settles that when it has handed the event to all who want it;
    each mailbox that keeps the event holds it once more. Both verbs are called in the event loop's thread and neither
    waits nor raises.
    """

    def hold(self) -> None:
        """One more is going to deal with the event."""

    def settle(self) -> Awaitable[None]:
        """One who held it is done with it; after the last one the broker is told.

        Awaiting the result waits until that is on its way to the broker, or known there if the broker confirms it;
        nobody needs to. It raises `ListenerClosed` if the broker can't be told any more.
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

    receipt: Receipt | None = field(default=None, repr=False, compare=False)
    """Where `ack` goes; None if there is nothing to acknowledge, or if that has been done."""

    position: str | None = field(default=None, compare=False)
    """Where the event stands in its group's history; None where the broker keeps none.

    It is made of letters, digits and hyphens, and means nothing but to `Channel.history` and `Channel.subscribe`.
    """

    deliveries: int = field(default=1, compare=False)
    """How often the event has been handed out, this time included, where the broker counts that."""

    def ack(self) -> Awaitable[None]:
        """Tell the broker that this event has been dealt with, at once; a second call does nothing.

        It need not be awaited. Awaiting it waits until the broker was told, and raises `ListenerClosed` if that is no
        longer possible: the event will come again then. Where the broker asks for no acknowledgement, and where the
        subscription acknowledges by itself, there is nothing to do, so a program may call it on every layer.
        """
        receipt, self.receipt = self.receipt, None
        return _NOTHING_TO_DO if receipt is None else receipt.settle()


@dataclass(slots=True)
class Gap(Event[bytes]):
    """What a layer hands out in the place of events that it can't get any more; its message is empty.

    The hub tells whoever wants to know of it; no subscriber gets it.
    """

    seconds: float | None = None
    """How long it was, if the link was up meanwhile; None if it was as long as the last outage."""


class Accepted(int):
    """What `publish` returns where the broker keeps a history: how many nodes it handed the message to."""

    position: str
    """Where the message stands in its group's history, as in `Event.position`."""

    def __new__(cls, nodes: int, position: str) -> Accepted:
        accepted = super().__new__(cls, nodes)
        accepted.position = position
        return accepted


class GroupMessage(dict[str, Any]):
    """A message that a consumer got through a group with a history: a dict like any other, that knows its place.

    It equals the plain dict with the same content, and is encoded as one. `position_of` reads the place of any message.
    """

    __slots__ = ("group", "position")

    def __init__(self, message: Mapping[str, Any], group: str, position: str) -> None:
        super().__init__(message)
        self.group = group
        """The group that the message was sent to."""
        self.position = position
        """Where the message stands in the group's history, as in `Event.position`."""


def position_of(message: Mapping[str, Any]) -> str | None:
    """Where a consumer's message stands in its group's history; None if it did not come through one."""
    return message.position if isinstance(message, GroupMessage) else None


class _NothingToDo:
    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_NOTHING_TO_DO = _NothingToDo()
