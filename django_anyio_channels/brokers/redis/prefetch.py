"""What a node has prefetched from a long queue for readers to come, and returns if they do not come in time.

The server keeps the messages until the node deletes them there (``HDEL``), one by one and before a reader gets it. So
what no reader had when the process was killed goes to others.
"""

from __future__ import annotations

from collections import deque

from .keys import inflight_key
from .packets import encode_command

MAX_PREFETCHED = 31
_MAX_BYTES = 1024 * 1024
"""Of all that is prefetched, if the messages are as large as the last ones."""
LEASE_SECONDS = 5.0
"""For which prefetched messages are only for this node."""
_SAFE_SHARE = 0.8
"""Of that time, in which readers get them: what the node sends is some time on its way."""


class Prefetched:
    """The prefetched messages of one queue."""

    def __init__(self, queue: bytes) -> None:
        self.messages: deque[bytes] = deque()
        self.call = 0
        """The sequence number of the call that they came with."""
        self.begun = 0
        """How many of that call readers have got."""
        self.limit = 0
        """How many to prefetch with the next call."""
        self._key = inflight_key(queue)
        self._ends = 0.0

    def add(self, node: str, call: int, called: float, messages: list[bytes]) -> None:
        """Keep the messages of a call that was sent at a time of the event loop."""
        self._node = node
        self.call, self.begun, self._ends = call, 0, called + _SAFE_SHARE * LEASE_SECONDS
        self.messages.extend(messages)

    def begin(self) -> tuple[bytes, bytes]:
        """Return the command that has to be sent before a reader gets the next message, and the message."""
        self.begun += 1
        field = f"{self._node} {self.call}/{self.begun}"
        return encode_command("HDEL", self._key, field), self.messages.popleft()

    def drop_late(self, now: float) -> None:
        """Forget messages that may be for other nodes by now."""
        if now >= self._ends:
            self.messages.clear()

    def adapt(self, largest: int, *, quick: bool) -> None:
        """Prefetch more with the next call if readers were quick with what the last one brought, or else less.

        ``largest`` are the bytes of the largest message that it brought.
        """
        limit = min(2 * self.limit + 1, MAX_PREFETCHED) if quick else self.limit // 2
        self.limit = min(limit, _MAX_BYTES // largest)
