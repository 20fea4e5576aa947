"""The envelope of what is published to a node's inbox: a channel name, a line feed, and the encoded message.

An envelope without a channel name holds a control message, see `control`.
"""

from __future__ import annotations

CONTROL = ""
"""Takes the place of the channel name in an envelope for the node itself."""


def seal(channel: str, payload: bytes) -> bytes:
    """Put a payload into an envelope for a channel of a node, or for `CONTROL`."""
    return b"%b\n%b" % (channel.encode(), payload)


def open_envelope(envelope: bytes) -> tuple[str, bytes]:
    """Return the channel and the payload. What is not ASCII in the channel is replaced, so that no name matches it."""
    channel, _, payload = envelope.partition(b"\n")
    return channel.decode("ascii", "replace"), payload
