"""Jobs: messages of normal channels that come again, to another reader, until one has acknowledged them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any
from weakref import WeakKeyDictionary

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from ..core.capabilities import require_acknowledgement
from ..core.events import Event
from ..core.exceptions import DecodeError
from ..hub.channel import Channel
from ..hub.subscriber import release
from .names import Naming

logger = logging.getLogger("django_anyio_channels")

_INSTANCE_GONE = 0.3
"""Seconds: asgiref's servers look every 0.1 s for consumers that have ended, and until then hand them messages."""


class Job(dict[str, Any]):
    """One message of an acknowledged channel, in the hands of one reader."""

    def __init__(self, message: dict[str, Any], channel: str, event: Event[bytes]) -> None:
        super().__init__(message)
        self.channel = channel
        self.deliveries = event.deliveries
        """How often it has been handed out, this time included."""
        self.loop = asyncio.get_running_loop()
        """Where it was received, and must be acknowledged."""
        self.received = self.loop.time()
        self.over = asyncio.Event()
        """Its reader may have the next one."""
        self._event = event

    def done(self) -> Awaitable[None]:
        """It has been dealt with, and its reader may have the next one."""
        self.over.set()
        return self.acknowledge()

    def acknowledge(self) -> Awaitable[None]:
        """It won't come again; see `Event.ack`."""
        return self._event.ack()

    def ended_its_consumer(self) -> None:
        """The next one must wait for another instance of the consumer."""
        self.loop.call_later(_INSTANCE_GONE, self.over.set)


class Jobs:
    """The readers of acknowledged channels in one event loop.

    A task gets its next job when the one before is over: acknowledged, failed, or no longer its own. So no more is in
    the hands of a reader that dies than the one job it works on.
    """

    def __init__(self, channel: Channel, naming: Naming) -> None:
        self._channel = channel
        self._naming = naming
        self._last: WeakKeyDictionary[asyncio.Task[Any], Job] = WeakKeyDictionary()

    async def receive(self, channel: str) -> Job:
        """The next job of a channel."""
        task = asyncio.current_task()
        assert task is not None
        if task in self._last:
            await self._wait_for_the_end_of(self._last[task])
        queue = self._naming.queue(channel)
        while True:
            event = await self._channel.queues.receive_job(queue, self._naming.group(dead_letters(channel)))
            try:
                job = Job(self._channel.serializer.decode(event.message), channel, event)
            except DecodeError as error:
                self._channel.stats.count_undecodable(channel, error)
                release(event)
                continue
            self._last[task] = job
            return job

    async def _wait_for_the_end_of(self, job: Job) -> None:
        patience = require_acknowledgement(self._channel.layer).redeliver_after
        try:
            await asyncio.wait_for(job.over.wait(), job.received + patience - job.loop.time())
        except asyncio.TimeoutError:
            logger.warning(
                "A message of %s was not acknowledged within %g s (redeliver_after), and goes to another reader",
                job.channel,
                patience,
            )
            job.over.set()


def dead_letters(channel: str) -> str:
    """The group where the messages of a channel go that were handed out too often."""
    return f"{channel}.dead"


def acknowledge_when_handled(consumer: AsyncConsumer) -> None:
    """Have every job acknowledged that ``consumer`` has handled without an error."""
    dispatch = consumer.dispatch

    async def dispatch_and_acknowledge(message: dict[str, Any]) -> None:
        if not isinstance(message, Job):
            await dispatch(message)
            return
        try:
            await dispatch(message)
        except StopConsumer:
            message.acknowledge()
            message.ended_its_consumer()
            raise
        except BaseException:
            message.ended_its_consumer()
            raise
        message.done()

    consumer.dispatch = dispatch_and_acknowledge  # type: ignore[method-assign]
