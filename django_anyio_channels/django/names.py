"""What groups, inboxes and queues are called on the broker, and what a channel's name says."""

from __future__ import annotations

import re

_NODE_ID = re.compile(r"(?:.*\.)?([0-9a-f]{16})!")


def node_of(channel: str) -> str | None:
    """The node that a process-specific channel name belongs to; None for every other name."""
    match = _NODE_ID.match(channel)
    return match[1] if match else None


class Naming:
    """The topics and queues of one prefix.

    Channel and group names hold no colon, and a prefix none that is not escaped. So no two prefixes can ever mean the
    same topic, nor do the topics of one begin as those of another.
    """

    def __init__(self, prefix: str) -> None:
        prefix = prefix.replace("%", "%25").replace(":", "%3A")
        self.prefix = f"{prefix}:"
        self.nodes = f"{prefix}:c:nodes"
        self.groups = f"{prefix}:g:"
        """What the topics of all groups begin with."""
        self._inbox = f"{prefix}:i:"
        self._queue = f"{prefix}:q:"

    def group(self, name: str) -> str:
        return self.groups + name

    def inbox(self, node: str) -> str:
        return self._inbox + node

    def queue(self, name: str) -> str:
        return self._queue + name
