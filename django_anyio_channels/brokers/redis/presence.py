"""The records of presence of a name: a hash whose fields have ends of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from ...core.capabilities import PresenceRecord
from .keys import presence_key
from .packets import CommandExecutor
from .scripts import PUT_PRESENCE, READ_PRESENCE


class PresenceSession(Protocol):
    """What this needs of a session."""

    def executor(self, key: bytes) -> CommandExecutor:
        """Return what executes the commands about a key."""

    def raise_for_error(self, reply: Any) -> Any:
        """Return a reply that is no error; otherwise raise it."""


async def put_records(session: PresenceSession, records: Iterable[PresenceRecord], ttl: float) -> None:
    """Put and remove records: one script for each name, all in one round trip."""
    by_name: dict[str, list[str | bytes]] = {}
    for name, key, content in records:
        by_name.setdefault(name, []).extend((key, content))
    replies = await asyncio.gather(
        *(
            PUT_PRESENCE.run(session.executor(name.encode()), [presence_key(name.encode())], round(ttl * 1000), *pairs)
            for name, pairs in by_name.items()
        )
    )
    for reply in replies:
        session.raise_for_error(reply)


async def read_records(session: PresenceSession, name: bytes) -> dict[str, bytes]:
    """Return the records of a name."""
    reply = session.raise_for_error(await READ_PRESENCE.run(session.executor(name), [presence_key(name)]))
    return {key.decode("ascii", "replace"): content for key, content in zip(reply[::2], reply[1::2], strict=True)}
