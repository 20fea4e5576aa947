"""Jobs: messages of normal channels that are delivered again until a reader acknowledges them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any
from weakref import WeakKeyDictionary

from ...core.capabilities import require_acknowledgement
from ...core.events import Event
from ...core.exceptions import DecodeError
from ...hub.channel import Channel
from ...hub.subscriber import release
from ..names import BrokerNames

logger = logging.getLogger("django_anyio_channels")

CONSUMER_SHUTDOWN_GRACE = 0.3
"""Seconds: asgiref's servers look every 0.1 s for consumers that have ended, and give them messages until then."""


def dead_letter_group(channel: str) -> str:
    """Return the group that gets the jobs of a channel that were delivered too often."""
    return f"{channel}.dead"


class Job(dict[str, Any]):
    """One message of an acknowledged channel, delivered to one reader."""

    def __init__(self, message: dict[str, Any], channel: str, event: Event[bytes]) -> None:
        super().__init__(message)
        self.channel = channel
        self.deliveries = event.deliveries
        """How often it has been delivered, this time included."""
        self.loop = asyncio.get_running_loop()
        """The event loop in which it was received, and must be acknowledged."""
        self.received = self.loop.time()
        self.finished = asyncio.Event()
        """Set when its reader may have the next job."""
        self._event = event

    def ack(self) -> Awaitable[None]:
        """Acknowledge it, see `Event.ack`, and let its reader have the next one."""
        self.finished.set()
        return self._event.ack()

    def consumer_stopped(self, *, handled: bool) -> None:
        """Acknowledge it if it was handled, and keep the next job for another instance of its consumer."""
        if handled:
            self._event.ack()
        self.loop.call_later(CONSUMER_SHUTDOWN_GRACE, self.finished.set)


class Jobs:
    """The readers of acknowledged channels in one event loop.

    A task gets its next job when the previous one is finished: acknowledged, failed, or due to be delivered again. So
    a reader that dies holds one job at most.
    """

    def __init__(self, channel: Channel, names: BrokerNames) -> None:
        self._channel = channel
        self._names = names
        self._last: WeakKeyDictionary[asyncio.Task[Any], Job] = WeakKeyDictionary()

    async def receive(self, channel: str) -> Job:
        """Wait for the next job of a channel; jobs that were delivered too often go to the group ``<channel>.dead``."""
        task = asyncio.current_task()
        assert task is not None
        if task in self._last:
            await self._wait_finished(self._last[task])
        queue, dead_letters = self._names.queue(channel), self._names.group(dead_letter_group(channel))
        while True:
            event = await self._channel.queues.receive_job(queue, dead_letters)
            try:
                job = Job(self._channel.serializer.decode(event.message), channel, event)
            except DecodeError as error:
                self._channel.stats.count_undecodable(channel, error)
                release(event)
                continue
            self._last[task] = job
            return job

    async def _wait_finished(self, job: Job) -> None:
        redeliver_after = require_acknowledgement(self._channel.layer).redeliver_after
        try:
            async with asyncio.timeout_at(job.received + redeliver_after):
                await job.finished.wait()
        except TimeoutError:
            logger.warning(
                "A message of %s was not acknowledged within %g s (redeliver_after), and goes to another reader",
                job.channel,
                redeliver_after,
            )
            job.finished.set()
