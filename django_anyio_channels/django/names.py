"""The format of channel names, and the names of topics and queues on the broker."""

from __future__ import annotations

import re
import secrets

TEST_RUN = "DJANGO_ANYIO_CHANNELS_TEST_RUN"
"""The environment variable with the name of a test run, which becomes a part of every prefix.

It is none of a process alone, because the processes that a test starts belong to the run, too.
"""

CHANNEL_NAME = re.compile(r"[a-zA-Z0-9\-_.]+(?:![a-zA-Z0-9\-_.]*)?")
GROUP_NAME = re.compile(r"[a-zA-Z0-9\-_.]+")
_ID = re.compile("[0-9a-f]{16}")
_NODE_ID = re.compile(r"(?:.*\.)?([0-9a-f]{16})!")
_OF_CONSUMER = re.compile(r"!1\.[0-9a-f]{24}$")


def new_node_id() -> str:
    """Return an id that no other node has."""
    return secrets.token_hex(8)


def new_channel_name(prefix: str, node: str, *, of_consumer: bool) -> str:
    """Return a process-specific channel name that nobody can guess."""
    return f"{prefix}.{node}!{of_consumer:d}.{secrets.token_hex(12)}"


def node_of(channel: str) -> str | None:
    """Return the id of the node that a process-specific channel belongs to; None for a normal channel."""
    match = _NODE_ID.match(channel)
    return match[1] if match else None


def is_group(text: str) -> bool:
    """Return whether a string may be the name of a group; `AnyioChannelLayer` takes no other."""
    return len(text) < 100 and GROUP_NAME.fullmatch(text) is not None


def is_node_id(text: str) -> bool:
    """Return whether a string may be the id of a node."""
    return _ID.fullmatch(text) is not None


def is_channel_of(node: str, channel: str) -> bool:
    """Return whether a string is the name of a channel of this node."""
    return CHANNEL_NAME.fullmatch(channel) is not None and node_of(channel) == node


def is_of_consumer(channel: str) -> bool:
    """Return whether a name was made for a consumer, and ends with it."""
    return channel[-27:-24] == "!1." and _OF_CONSUMER.search(channel) is not None


def channel_of(queue: str) -> str:
    """Return the normal channel that a queue is for."""
    return queue.rpartition(":")[2]


class BrokerNames:
    """The topics and queues of one ``prefix`` of CONFIG.

    Channel and group names contain no colon, and a prefix only an escaped one. So two prefixes never share a topic, and
    the topics of one never begin with those of another.
    """

    def __init__(self, prefix: str) -> None:
        prefix = prefix.replace("%", "%25").replace(":", "%3A")
        self.prefix = f"{prefix}:"
        self.nodes = f"{prefix}:c:nodes"
        """The topic that every node subscribes to."""
        self.groups = f"{prefix}:g:"
        """The beginning of the topics of all groups."""
        self.present_nodes = f"{prefix}:c:present"
        """The name of the records of the nodes that have members."""
        self._presence = f"{prefix}:p:"
        self._counts = f"{prefix}:n:"
        self._inbox = f"{prefix}:i:"
        self._queue = f"{prefix}:q:"
        self._echo = f"{prefix}:e:"

    def group(self, name: str) -> str:
        return self.groups + name

    def group_of(self, topic: str) -> str:
        """Return the group of a topic."""
        return topic.removeprefix(self.groups)

    def presence(self, group: str) -> str:
        """The topic of the changes of a group's members, and the name of their records."""
        return self._presence + group

    def counts(self, group: str) -> str:
        """The name of the records of the members of a group without their metas."""
        return self._counts + group

    def inbox(self, node: str) -> str:
        """The topic of what is sent to one node."""
        return self._inbox + node

    def echo(self, node: str, number: int) -> str:
        """One of the topics of what a node sends to itself."""
        return f"{self._echo}{node}.{number}"

    def queue(self, channel: str) -> str:
        """The queue of a normal channel."""
        return self._queue + channel
