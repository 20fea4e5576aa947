"""What is published to the inbox of a node: it is sealed.

That is a channel name, a line feed, and the encoded message. What is sealed without a name holds a control message,
see `nodes.control`.
"""

from __future__ import annotations

CONTROL = ""
"""Takes the place of the channel name of what is for the node itself."""


def seal(channel: str, payload: bytes) -> bytes:
    """Seal a payload for a channel of a node, or for `CONTROL`."""
    return b"%b\n%b" % (channel.encode(), payload)


def unseal(sealed: bytes) -> tuple[str, bytes]:
    """Return the channel and the payload. What is not ASCII in the channel is replaced, so that no name matches it."""
    channel, _, payload = sealed.partition(b"\n")
    return channel.decode("ascii", "replace"), payload
