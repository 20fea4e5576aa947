"""Numbered messages that flow between nodes while something happens to their broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.to_thread import run_sync

from django_anyio_channels import BaseChannelLayer, Channel, DeliveryUnknown, ListenerClosed
from tests.support.brokers import redis as brokers

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

    missed: list[str] = field(default_factory=list)
    """The groups of which readers were told that their history does not reach back."""

    publisher: Channel = field(init=False)
    in_doubt: set[int] = field(default_factory=set)
    """What a server may have accepted, and not sent to every reader when it was killed."""

    async def kill(self, server: brokers.Redis) -> None:
        """Kill the server.

        It replies to the publisher before it writes to the readers, so it may end between these two.
        """
        await run_sync(server.server.kill)
        self._doubt_last()

    async def restart(self, server: brokers.Redis) -> None:
        """`kill` the server, start it again, and wait until messages flow again."""
        await self.kill(server)
        await run_sync(server.server.start)
        await self.go_on()

    async def freeze(self, server: brokers.Redis) -> None:
        """Stop the server; as with `kill`."""
        server.server.freeze()
        self._doubt_last()

    def _doubt_last(self) -> None:
        last = self.sent[-1]
        self.in_doubt |= {last, last + 1}  # the last reply may not be read yet

    async def go_on(self, count: int = 50, seconds: float = 40.0) -> None:
        """Wait until every reader has got so many more of the numbers that are sent from now on."""
        goal = (self.sent or [0])[-1] + count
        with anyio.fail_after(seconds):
            while not all(numbers and numbers[-1] >= goal for numbers in self.received):
                await anyio.sleep(0.005)

    def lost(self) -> list[set[int]]:
        """What each reader lacks of what was sent, not surpassed by what it got, and not in doubt."""
        return [
            {n for n in self.sent if numbers[0] <= n <= numbers[-1]} - set(numbers) - self.in_doubt
            for numbers in self.received
        ]

    def check(self) -> None:
        """Nothing twice, everything in order, nothing that was not sent."""
        tried = {*self.sent, *(number for number, _ in self.failed)}
        for numbers in self.received:
            assert numbers == sorted(set(numbers))
            assert set(numbers) <= tried | {max(tried) + 1}


@asynccontextmanager
async def flow(make_layer: Callable[[], BaseChannelLayer], readers: int = 2, **options: Any) -> AsyncIterator[Flow]:
    """One node publishes, awaiting each; ``readers`` nodes read. Each node is a `Channel` with ``options``."""
    async with flows(make_layer, [GROUP], readers, **options) as going:
        yield going[GROUP]


@asynccontextmanager
async def flows(
    make_layer: Callable[[], BaseChannelLayer], groups: list[str], readers: int = 2, **options: Any
) -> AsyncIterator[dict[str, Flow]]:
    """As `flow`, but through several groups: each reader reads them all, and publishing to one waits for no other."""
    all_going = {group: Flow() for group in groups}
    options.setdefault("publish_timeout", 10.0)

    def report_gap(seconds: float) -> None:
        for going in all_going.values():
            going.gaps.append(seconds)

    async def publish(group: str, going: Flow) -> None:
        number = 0
        while True:
            try:
                await going.publisher.publish(group, number)
            except ListenerClosed as error:
                going.failed.append((number, error))
            else:
                going.sent.append(number)
            number += 1
            await anyio.sleep(0.002 * len(groups))

    async def read(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        numbers: dict[str, list[int]] = {group: [] for group in groups}
        for group, going in all_going.items():
            going.received.append(numbers[group])
        async with (
            Channel(
                make_layer(),
                on_gap=report_gap,
                on_missed=lambda group, seconds: all_going[group].missed.append(group),
                capacity=100_000,
                **options,
            ) as channel,
            channel.subscribe(*groups) as subscriber,
        ):
            task_status.started()
            async for event in subscriber:
                numbers[event.group].append(event.message)

    async with anyio.create_task_group() as tasks:
        for _ in range(readers):
            await tasks.start(read)
        async with Channel(make_layer(), **options) as publisher, anyio.create_task_group() as publishing:
            for group, going in all_going.items():
                going.publisher = publisher
                publishing.start_soon(publish, group, going)
            await all_go_on(all_going)
            yield all_going
            publishing.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    for going in all_going.values():
        going.check()


async def all_go_on(all_going: dict[str, Flow], count: int = 50, seconds: float = 40.0) -> None:
    """`Flow.go_on`, of all of them at once."""
    async with anyio.create_task_group() as tasks:
        for going in all_going.values():
            tasks.start_soon(going.go_on, count, seconds)


def nothing_missed(going: Flow) -> bool:
    """Whether each reader got all that was accepted, and nobody was told of a gap."""
    assert going.lost() == [set()] * len(going.received)
    assert all(isinstance(error, DeliveryUnknown) for _, error in going.failed)
    return going.missed == [] and going.gaps == []
