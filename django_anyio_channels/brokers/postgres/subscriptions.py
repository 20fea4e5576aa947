"""The groups that one session subscribes to: LISTEN, and notifications as events."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...core.events import Event
from ...core.exceptions import DecodeError
from ...core.stats import RateLimitedLogger
from ..common.batching import Batcher
from ..common.event_stream import EventStream
from .connection import Connection
from .payloads import PayloadAssembler, channel_name, lock_key
from .statements import listen, lock_shared, unlisten, unlock_shared

MAX_COUNTED = 16
"""How many groups of a node are counted by `Session.count_subscribers`: its first, which are its own topics.

PostgreSQL tells nobody who listens to what. So a node holds a shared advisory lock for each group that is counted. A
lock takes room in the server's shared memory.
"""


class Subscriptions:
    """What one connection listens to. Concurrent calls share a round trip."""

    def __init__(self, connection: Connection, events: EventStream) -> None:
        self._connection = connection
        self._events = events
        self._groups: dict[str, tuple[str, PayloadAssembler]] = {}
        self._counted: set[str] = set()
        self.scripts: Batcher[str, None] = Batcher(self._execute)
        """Runs scripts on the connection, in the order of the calls."""
        self._log = RateLimitedLogger()

    async def subscribe(self, group: str) -> None:
        """Have the events of ``group`` added to the stream from now on."""
        channel = channel_name(group)
        script = listen(channel)
        if channel not in self._groups:
            self._groups[channel] = group, PayloadAssembler()
            if len(self._counted) < MAX_COUNTED:
                self._counted.add(channel)
                script = f"{script}; {lock_shared(lock_key(channel))}"
        await self.scripts.call(script)

    async def unsubscribe(self, group: str) -> None:
        """Undo `subscribe`."""
        channel = channel_name(group)
        script = unlisten(channel)
        self._groups.pop(channel, None)
        if channel in self._counted:
            self._counted.discard(channel)
            script = f"{script}; {unlock_shared(lock_key(channel))}"
        await self.scripts.call(script)

    def on_notification(self, channel: str, payload: str) -> bool:
        """Add the event to the stream, if it is complete. Returns whether the channel is that of a group."""
        known = self._groups.get(channel)
        if known is None:
            return False
        group, assembler = known
        try:
            message = assembler.add(payload)
        except DecodeError as error:
            self._log.write(logging.WARNING, "Dropped a notification on channel %s: %s", channel, error)
        else:
            if message is not None:
                self._events.add(Event(group, message))
        return True

    async def _execute(self, scripts: list[str]) -> Sequence[None]:
        await self._connection.execute("; ".join(scripts))
        return [None] * len(scripts)
