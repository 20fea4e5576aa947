"""Whether a server has lost its memory since the last session: a mark on it (``SET NX``) is another one then."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from ..packets import encode_command
from ..session import Session

_MARK_SECONDS = 30 * 24 * 3600
"""For which a mark outlives the last session that has looked at it."""


class ServerMemory:
    """The mark of the server, or of each master of a cluster, as the sessions of a layer have seen it.

    A group that nothing was published to takes no memory there, so nothing of its own would be missing.
    """

    def __init__(self) -> None:
        self._marks: dict[bytes, bytes] = {}

    async def is_lost(self, session: Session) -> bool:
        """Compare the marks, and remember them. Raises `ListenerClosed`."""
        lost = False
        for key in session.companion_keys("memory"):
            executor = session.executor(key)
            made = executor.execute(encode_command("SET", key, uuid4().hex, "NX"))
            kept = executor.execute(encode_command("PEXPIRE", key, _MARK_SECONDS * 1000))
            mark = await executor.execute(encode_command("GET", key))
            await asyncio.gather(made, kept)
            if isinstance(mark, bytes):  # not if it is refused, for example because the server has no memory left
                lost = lost or self._marks.get(key, mark) != mark
                self._marks[key] = mark
        return lost
