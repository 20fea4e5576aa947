"""A `Channel` that measures: the time of its events into the mailboxes, and the lengths of the queues that it reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import anyio

from ..core.capabilities import SupportsQueueLength
from ..core.events import Event
from ..core.exceptions import ChannelClosed, ChannelLayerError
from ..core.layer import BaseChannelLayer
from ..core.telemetry import EventRecorder, Recorder
from .channel import Channel
from .encryption import ChannelEncryption
from .queues import Queues
from .supervisor import Supervisor

POLL_SECONDS = 5.0
"""Between two questions to the broker for the lengths of queues."""


class MeasuredChannel(Channel):
    """A `Channel` with a recorder. It is a class of its own, so that who measures nothing pays nothing."""

    def __init__(
        self, layer: BaseChannelLayer | Sequence[BaseChannelLayer], *, recorder: Recorder, **options: Any
    ) -> None:
        """``options`` are those of `Channel`."""
        super().__init__(layer, **options)
        measured = partial(_MeasuredSupervisor, recorder=recorder, **self._new_supervisor.keywords)
        self._new_supervisor = cast("partial[Supervisor]", measured)
        queues = self.queues = _MeasuredQueues(
            self._shards, self.stats, self._dead_letters, self._encryption, options.get("marked")
        )
        self._poll = partial(queues.poll, recorder)

    async def __aenter__(self) -> MeasuredChannel:
        await super().__aenter__()
        self._dead_letters.tasks.start_soon(self._poll)
        return self


class _MeasuredSupervisor(Supervisor):
    def __init__(
        self, layer: BaseChannelLayer, *, recorder: Recorder, encryption: ChannelEncryption | None, **options: Any
    ) -> None:
        super().__init__(layer, encryption=encryption, **options)

        def sent_at(event: Event[bytes]) -> float | None:
            if encryption is not None:
                return encryption.sent
            return None if event.position is None else layer.published_at(event.position)

        self._deliver = EventRecorder(self._deliver, self.subscriptions.count_sinks, sent_at, self._stats, recorder)


class _MeasuredQueues(Queues):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._read: set[str] = set()

    async def take(self, queue: str) -> bytes:
        self._read.add(queue)
        return await super().take(queue)

    async def receive_job(self, queue: str, dead_letter_group: str) -> Event[bytes]:
        self._read.add(queue)
        return await super().receive_job(queue, dead_letter_group)

    async def poll(self, recorder: Recorder) -> None:
        """Keep the lengths of the queues that were read here, until cancelled."""
        while True:
            await anyio.sleep(POLL_SECONDS)
            for queue in list(self._read):
                await self._ask(queue, recorder)

    async def _ask(self, queue: str, recorder: Recorder) -> None:
        try:
            supervisor = self._shards.of(queue)
            layer = supervisor.layer
            if isinstance(layer, SupportsQueueLength):
                recorder.queues[queue] = await supervisor.retry(lambda: layer.queue_length(queue))
        except ChannelClosed:
            return  # about to be cancelled
        except Exception as error:
            recorder.queues.pop(queue, None)
            trace = None if isinstance(error, ChannelLayerError) else error
            self._log.write(logging.WARNING, "The length of queue %s is unknown: %s", queue, error, exc_info=trace)
