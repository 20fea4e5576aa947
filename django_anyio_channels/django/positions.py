"""Messages of consumers that know their position in the history of their group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class GroupMessage(dict[str, Any]):
    """A message that a consumer received through a group with a history: a dict with a position.

    It equals the plain dict with the same content and is encoded as one. `position_of` reads any message's position.
    """

    __slots__ = ("group", "position")

    def __init__(self, message: Mapping[str, Any], group: str, position: str) -> None:
        super().__init__(message)
        self.group = group
        """The group that the message was sent to."""
        self.position = position
        """The message's position in the group's history, as in `Event.position`."""


def position_of(message: Mapping[str, Any]) -> str | None:
    """Return the position of a consumer's message in its group's history, or None if it has none."""
    return message.position if isinstance(message, GroupMessage) else None
