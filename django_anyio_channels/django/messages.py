"""Messages as consumers get them from a group with a history, and as they are published to the inbox of a node.

What goes to an inbox is sealed: a channel name, a line feed, and the encoded message. What is sealed without a name
holds a control message, see `control`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.events import Event

CONTROL = ""
"""Takes the place of the channel name of what is for the node itself."""

CONTEXT_KEY = "_trace_context"
"""The key of a message under which a trace context travels: a dict with what W3C calls ``traceparent`` and so on."""


def seal(channel: str, payload: bytes) -> bytes:
    """Seal a payload for a channel of a node, or for `CONTROL`."""
    return b"%b\n%b" % (channel.encode(), payload)


def unseal(sealed: bytes) -> tuple[str, bytes]:
    """Return the channel and the payload. What is not ASCII in the channel is replaced, so that no name matches it."""
    channel, _, payload = sealed.partition(b"\n")
    return channel.decode("ascii", "replace"), payload


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
