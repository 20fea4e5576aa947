"""What a subscriber receives."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
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

    def ack(self) -> Awaitable[None]:
        """Tell the broker that this event has been dealt with, at once; a second call does nothing.

        It need not be awaited. Awaiting it waits until the broker was told, and raises `ListenerClosed` if that is no
        longer possible: the event will come again then. Where the broker asks for no acknowledgement, and where the
        subscription acknowledges by itself, there is nothing to do, so a program may call it on every layer.
        """
        receipt, self.receipt = self.receipt, None
        return _NOTHING_TO_DO if receipt is None else receipt.settle()


class _NothingToDo:
    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_NOTHING_TO_DO = _NothingToDo()
