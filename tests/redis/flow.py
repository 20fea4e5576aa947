"""Numbered messages that flow between nodes while something happens to their broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from django_anyio_channels import BaseChannelLayer, Channel, ListenerClosed

GROUP = "numbers"


@dataclass
class Flow:
    """What was published, and what each reading node got."""

    sent: list[int] = field(default_factory=list)
    """The numbers whose publish returned."""

    failed: list[tuple[int, ListenerClosed]] = field(default_factory=list)
    """Those whose publish raised."""

    received: list[list[int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """The outages that the readers were told of, in seconds."""

    publisher: Channel = field(init=False)

    async def go_on(self, count: int = 50, seconds: float = 15.0) -> None:
        """Wait until every reader has got so many more of the numbers that are sent from now on."""
        goal = (self.sent or [0])[-1] + count
        with anyio.fail_after(seconds):
            while not all(numbers and numbers[-1] >= goal for numbers in self.received):
                await anyio.sleep(0.005)

    def lost(self) -> list[set[int]]:
        """What each reader lacks of what was sent and not surpassed by what it got."""
        return [{n for n in self.sent if numbers[0] <= n <= numbers[-1]} - set(numbers) for numbers in self.received]

    def check(self) -> None:
        """Nothing twice, everything in order, nothing that was not sent."""
        tried = {*self.sent, *(number for number, _ in self.failed)}
        for numbers in self.received:
            assert numbers == sorted(set(numbers))
            assert set(numbers) <= tried | {max(tried) + 1}


@asynccontextmanager
async def flow(make_layer: Callable[[], BaseChannelLayer], readers: int = 2, **options: Any) -> AsyncIterator[Flow]:
    """One node publishes, awaiting each; ``readers`` nodes read. Each node is a `Channel` with ``options``."""
    going = Flow()
    options.setdefault("publish_timeout", 10.0)

    async def publish() -> None:
        number = 0
        while True:
            try:
                await going.publisher.publish(GROUP, number)
            except ListenerClosed as error:
                going.failed.append((number, error))
            else:
                going.sent.append(number)
            number += 1
            await anyio.sleep(0.002)

    async def read(numbers: list[int], *, task_status: anyio.abc.TaskStatus[None]) -> None:
        layer = make_layer()
        async with (
            Channel(layer, on_gap=going.gaps.append, capacity=100_000, **options) as channel,
            channel.subscribe(GROUP) as subscriber,
        ):
            task_status.started()
            async for event in subscriber:
                numbers.append(event.message)

    async with anyio.create_task_group() as tasks:
        for _ in range(readers):
            numbers: list[int] = []
            going.received.append(numbers)
            await tasks.start(read, numbers)
        async with Channel(make_layer(), **options) as going.publisher, anyio.create_task_group() as publishing:
            publishing.start_soon(publish)
            await going.go_on()
            yield going
            publishing.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    going.check()
