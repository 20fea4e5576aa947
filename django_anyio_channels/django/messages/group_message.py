"""Messages as consumers get them from a group with a history: they know their position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.events import Event


class GroupMessage(dict[str, Any]):
    """A message that a consumer received through a group with a history: a dict with a position.

    It equals the plain dict with the same content and is encoded as one. `position_of` reads any message's position.
    """

    __slots__ = ("_topic", "position")

    _topic: str
    position: str
    """The message's position in the group's history, as in `Event.position`."""

    @property
    def group(self) -> str:
        """The group that the message was sent to."""
        return self._topic.rpartition(":")[2]


def with_position(event: Event[bytes], message: Mapping[str, Any]) -> GroupMessage:
    """Return the decoded message of an event of a group with a history."""
    # By no __init__ of its own, which would take longer than all of this.
    made = GroupMessage(message)
    made._topic, made.position = event.group, event.position  # type: ignore[assignment]
    return made


def position_of(message: Mapping[str, Any]) -> str | None:
    """Return the position of a consumer's message in its group's history, or None if it has none."""
    return message.position if isinstance(message, GroupMessage) else None
