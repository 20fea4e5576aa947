"""What a subscriber receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Message = TypeVar("Message")


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
