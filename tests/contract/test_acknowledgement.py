"""What every broker with acknowledgement promises: each message to one reader, until one has acknowledged it."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from anyio.to_thread import run_sync

from django_anyio_channels import Backoff, Channel, DeliveryUnknown, ListenerClosed, Subscriber
from django_anyio_channels.hub.consumer_group import dead_letter_group
from tests.support.consumer_groups import TIME_LIMIT, messages, next_of
from tests.support.paths import ROOT
from tests.support.programs import in_a_hurry

from .helpers import Unique
from .kinds import HistoryBroker

pytestmark = pytest.mark.anyio

SHORT = 0.5
"""Seconds after which what is not acknowledged comes again, in tests that wait for it."""

Open = Callable[..., Awaitable[Channel]]


@pytest.fixture
async def open_channel(history_broker: HistoryBroker) -> AsyncIterator[Open]:
    """Opens Channels with such options of the layer, and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def connect(*, on_missed: Any = None, **options: Any) -> Channel:
            layers, backoff = history_broker.layers(**options), Backoff(longest=0.1)
            channel = await stack.enter_async_context(Channel(layers, on_missed=on_missed, backoff=backoff))
            await channel.connected()
            return channel

        yield connect


@pytest.fixture
def jobs(unique: Unique) -> str:
    return unique("jobs")


def workers_of(channel: Channel, group: str, name: str = "workers", ack: Any = "manual") -> Any:
    return channel.subscribe(group, consumer_group=name, ack=ack)


async def becomes_true(condition: Callable[[], object], seconds: float = TIME_LIMIT) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


# ---- one of them ---------------------------------------------------------------------------------------------------


async def test_each_event_goes_to_one_consumer_of_each_group(open_channel: Open, jobs: str) -> None:
    here, there = await open_channel(), await open_channel()
    got: dict[str, list[int]] = {"workers": [], "auditors": []}
    count = 200

    async def work(name: str, reader: Subscriber) -> None:
        async for event in reader:
            await event.ack()
            got[name].append(event.message)

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for name in got:
            for channel in (here, here, there):
                tasks.start_soon(work, name, await stack.enter_async_context(workers_of(channel, jobs, name)))
        everything = await stack.enter_async_context(there.subscribe(jobs, capacity=count))
        for number in range(count):
            await here.publish(jobs, number)
        await becomes_true(lambda: all(len(numbers) >= count for numbers in got.values()))
        await becomes_true(lambda: len(everything) == count)
        tasks.cancel_scope.cancel()
    assert {name: sorted(numbers) for name, numbers in got.items()} == {name: list(range(count)) for name in got}


async def test_one_consumer_gets_all_in_order_with_their_positions(open_channel: Open, jobs: str) -> None:
    channel = await open_channel(consumer_group="workers")
    async with channel.subscribe(jobs) as reader:
        positions = [(await channel.publish(jobs, number)).position for number in range(5)]
        events = [await next_of(reader) for _ in range(5)]
    assert [(event.group, event.message, event.position, event.deliveries) for event in events] == [
        (jobs, number, position, 1) for number, position in enumerate(positions)
    ]


async def test_a_consumer_group_begins_with_the_first_and_outlives_the_last(open_channel: Open, jobs: str) -> None:
    channel = await open_channel()
    await channel.publish(jobs, "before")
    async with workers_of(channel, jobs) as reader:
        await channel.publish(jobs, 1)
        assert await messages(reader, 1) == [1]
    await channel.publish(jobs, 2)
    async with workers_of(channel, jobs) as reader, workers_of(channel, jobs):
        assert await messages(reader, 1) == [2]


async def test_a_slow_reader_keeps_nothing_from_the_others(open_channel: Open, jobs: str) -> None:
    channel = await open_channel()
    async with workers_of(channel, jobs) as slow, workers_of(channel, jobs) as quick:
        for number in range(50):
            await channel.publish(jobs, number)
        first = await next_of(slow)
        assert [first.message, *await messages(quick, 49)] == list(range(50))


async def test_groups_do_not_wake_each_other(open_channel: Open, jobs: str, unique: Unique) -> None:
    channel, letters = await open_channel(consumer_group="workers"), unique("letters")
    async with channel.subscribe(jobs) as one, channel.subscribe(letters) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(messages, other, 1)
            await channel.publish(jobs, 1)
            assert await messages(one, 1) == [1]
            await channel.publish(letters, 2)


async def test_cancelled_readers_lose_nothing(open_channel: Open, jobs: str) -> None:
    channels, chance, got = [await open_channel() for _ in range(2)], random.Random(1), []
    async with workers_of(channels[0], jobs) as one, workers_of(channels[1], jobs) as two:

        async def poll(reader: Subscriber) -> None:
            while True:
                with anyio.move_on_after(chance.choice([0, 0.0005, 0.001, 0.003])):
                    event = await reader.receive()
                    event.ack()
                    got.append((event.message, event.deliveries))
                await checkpoint()

        async with anyio.create_task_group() as tasks:
            for reader in (one, one, two):
                tasks.start_soon(poll, reader)
            for number in range(200):
                await channels[0].publish(jobs, number)
            await becomes_true(lambda: len(got) >= 200)
            tasks.cancel_scope.cancel()
    assert sorted(got) == [(number, 1) for number in range(200)]


async def test_leaving_a_subscription_ends_its_readers(open_channel: Open, jobs: str) -> None:
    channel = await open_channel()
    async with anyio.create_task_group() as tasks:
        async with workers_of(channel, jobs) as reader:

            async def read() -> None:
                with pytest.raises(ListenerClosed, match=f"{jobs} is closed"):
                    await reader.receive()

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
    async with workers_of(channel, jobs) as reader:
        await channel.publish(jobs, 1)
        assert await messages(reader, 1) == [1]


# ---- again ---------------------------------------------------------------------------------------------------------


async def test_what_is_not_acknowledged_goes_to_another(open_channel: Open, jobs: str) -> None:
    stuck, other = [await open_channel(redeliver_after=SHORT) for _ in range(2)]
    async with workers_of(stuck, jobs) as one, workers_of(other, jobs) as two:
        for message in ("left lying", "done", "left too"):
            await stuck.publish(jobs, message)
        left, done, too = [await next_of(one) for _ in range(3)]
        await done.ack()
        again = [await next_of(two) for _ in range(2)]
        assert [(event.message, event.position, event.deliveries) for event in again] == [
            ("left lying", left.position, 2),
            ("left too", too.position, 2),
        ], "and what was acknowledged, not"
        await again[1].ack()
        assert (await next_of(two)).deliveries == 3
        await left.ack()
        await stuck.publish(jobs, "next")
        assert await messages(two, 1) == ["next"], "a late acknowledgement counts, too"


async def test_what_a_channel_has_pending_goes_to_others_when_it_closes(
    open_channel: Open, history_broker: HistoryBroker, jobs: str
) -> None:
    other = await open_channel()
    async with workers_of(other, jobs) as waiting:
        async with Channel(history_broker.layers()) as leaving, workers_of(leaving, jobs) as reader:
            await other.publish(jobs, "begun")
            await other.publish(jobs, "done")
            await next_of(reader)
            await (await next_of(reader)).ack()
        again = await next_of(waiting)
        assert (again.message, again.deliveries) == ("begun", 2)
        await again.ack()
        await other.publish(jobs, "next")
        assert await messages(waiting, 1) == ["next"]


async def test_what_is_delivered_too_often_becomes_a_dead_letter(
    open_channel: Open, jobs: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel, dead = await open_channel(redeliver_after=0.05, deliver_at_most=3), dead_letter_group(jobs, "workers")
    async with workers_of(channel, jobs) as reader, channel.subscribe(dead) as dead_letters:
        await channel.publish(jobs, "poison")
        assert [(await next_of(reader)).deliveries for _ in range(3)] == [1, 2, 3]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(messages, reader, 1)
            assert (await next_of(dead_letters)).message == "poison"
            await channel.publish(jobs, "the next")
        assert [letter.message for letter in await channel.history(dead)] == ["poison"]
    assert f"{jobs} was delivered 3 times without being acknowledged; it is now a dead letter in {dead}" in caplog.text


async def test_what_is_pending_outlives_the_history(open_channel: Open, jobs: str) -> None:
    channel = await open_channel(redeliver_after=SHORT, history_length=10)
    async with workers_of(channel, jobs) as reader:
        [pending] = [(await channel.publish(jobs, "pending")).position]
        await next_of(reader)
        for number in range(300):
            await channel.publish(jobs, number)
        assert "pending" not in [event.message for event in await channel.history(jobs)]
        with anyio.fail_after(TIME_LIMIT):
            while (event := await reader.receive()).message != "pending":
                await event.ack()
        assert (event.position, event.deliveries) == (pending, 2)


async def test_unread_work_that_the_history_lost_is_reported(open_channel: Open, jobs: str) -> None:
    missed: list[str] = []
    channel = await open_channel(history_length=10, on_missed=lambda group, seconds: missed.append(group))
    async with workers_of(channel, jobs) as reader:
        for number in range(500):
            await channel.publish(jobs, number)
        first = (await next_of(reader)).message
        assert missed == [jobs]
        assert 0 < first <= 490
        assert await messages(reader, 499 - first) == list(range(first + 1, 500))
        assert missed == [jobs]


async def test_purge_forgets_what_is_pending(open_channel: Open, jobs: str) -> None:
    channel = await open_channel(redeliver_after=SHORT)
    async with workers_of(channel, jobs) as reader:
        await channel.publish(jobs, "forgotten")
        taken = await next_of(reader)
        await channel.queues.purge(jobs)
        await channel.publish(jobs, "new")
        new = await next_of(reader)
        assert (new.message, new.deliveries) == ("new", 1)
        again = await next_of(reader)
        assert (again.message, again.deliveries) == ("new", 2), "which came before what is forgotten would have come"
        await taken.ack()


@pytest.mark.parametrize("how", ["pattern", "since", "groups"])
async def test_consumers_share_one_group(open_channel: Open, jobs: str, how: str) -> None:
    channel = await open_channel()
    what: dict[str, Any] = {"pattern": {"pattern": "j*"}, "since": {"since": "00000000-0-0"}, "groups": {}}[how]
    groups = {"pattern": (), "since": (jobs,), "groups": (jobs, "more")}[how]
    with pytest.raises(
        TypeError, match="The consumers of 'workers' share one group; subscribe to each group by itself"
    ):
        async with channel.subscribe(*groups, consumer_group="workers", **what):
            raise AssertionError("it was accepted")


# ---- outages -------------------------------------------------------------------------------------------------------


async def test_work_is_done_whatever_happens_to_the_connections(
    open_channel: Open, history_broker: HistoryBroker, jobs: str
) -> None:
    """Ten broken connections: each event is handled, and twice only if its acknowledgement was on its way then."""
    count, done, numbers = 1200, list[int](), itertools.count()
    accepted: set[int] = set()
    publisher = await open_channel(history_length=2 * count)
    nodes = [await open_channel(history_length=2 * count, redeliver_after=SHORT) for _ in range(2)]

    async def work(reader: Subscriber) -> None:
        async for event in reader:
            done.append(event.message)
            event.ack()

    async def publish() -> None:
        while len(accepted) < count:
            number = next(numbers)
            try:
                await publisher.publish(jobs, number)
            except DeliveryUnknown:
                continue
            accepted.add(number)

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for node in nodes:
            for _ in range(2):
                tasks.start_soon(work, await stack.enter_async_context(workers_of(node, jobs)))
        stack.enter_context(anyio.fail_after(60))
        for _ in range(5):
            tasks.start_soon(publish)
        for step in range(1, 11):
            await becomes_true(lambda step=step: len(done) >= step * count // 12)  # type: ignore[misc]
            await run_sync(history_broker.break_connections)
        await becomes_true(lambda: len(accepted) >= count and accepted <= set(done))
        tasks.cancel_scope.cancel()
    assert len(done) - len(set(done)) <= 10 * 4, "what a reader had done, and could not acknowledge"


async def test_readers_wait_over_an_outage(open_channel: Open, history_broker: HistoryBroker, jobs: str) -> None:
    channel, other = await open_channel(), await open_channel()
    async with workers_of(channel, jobs) as reader:
        async with anyio.create_task_group() as tasks:
            got: list[int] = []

            async def read() -> None:
                got.extend(await messages(reader, 1))

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await run_sync(history_broker.break_connections)
            await becomes_true(lambda: channel.outages)
            while True:
                try:
                    await other.publish(jobs, 1)
                except DeliveryUnknown:
                    continue
                break
            await becomes_true(lambda: got == [1])


async def test_work_outlives_the_broker(open_channel: Open, durable_history_broker: HistoryBroker, jobs: str) -> None:
    """What was accepted is delivered, what is pending comes again, what was acknowledged does not."""
    channel = await open_channel(redeliver_after=SHORT)
    async with workers_of(channel, jobs) as reader:
        for message in ("acknowledged", "pending", "waits"):
            await channel.publish(jobs, message)
        done, pending = await next_of(reader), await next_of(reader)
        await done.ack()
        await run_sync(durable_history_broker.fail_over)
        await becomes_true(lambda: channel.outages)
        await channel.connected()
        found = [await next_of(reader) for _ in range(2)]
        for event in found:
            await event.ack()
    assert sorted((event.message, event.deliveries) for event in found) == [("pending", 2), ("waits", 1)]
    assert pending.message == "pending"


async def test_frozen_broker(open_channel: Open, mortal_history_broker: Any, jobs: str) -> None:
    channel = await open_channel()
    async with workers_of(channel, jobs) as reader:
        await channel.publish(jobs, 1)
        event = await next_of(reader)
        mortal_history_broker.freeze()
        ack = event.ack()
        await becomes_true(lambda: channel.outages)
        with pytest.raises(ListenerClosed):
            await ack
        mortal_history_broker.thaw()
        await channel.publish(jobs, 2)
        assert await messages(reader, 1) == [2], "the acknowledgement was repeated, or it would have come again first"


class Workers:
    """Processes of one consumer group, each of which writes what it handles into a file."""

    def __init__(self, stack: AsyncExitStack, config: dict[str, Any], group: str, folder: Path, count: int) -> None:
        command = [sys.executable, "-m", "tests.contract.history_worker", json.dumps(config), group]
        self.files = [folder / f"worker {number}" for number in range(count)]
        self.processes: list[subprocess.Popen[bytes]] = []
        for file in self.files:
            output = stack.enter_context(file.open("wb"))
            process = subprocess.Popen(command, cwd=ROOT, env=in_a_hurry(), stdout=output)
            stack.callback(process.wait)
            stack.callback(process.kill)
            self.processes.append(process)

    def ready(self) -> bool:
        return all(file.read_bytes().startswith(b"ready\n") for file in self.files)

    def done(self) -> list[list[int]]:
        """What each has handled so far."""
        return [[int(line) for line in file.read_bytes().split(b"\n")[1:-1]] for file in self.files]

    def numbers(self) -> list[int]:
        return [number for numbers in self.done() for number in numbers]


async def test_readers_that_are_killed_or_stopped_lose_nothing(
    open_channel: Open, durable_history_broker: HistoryBroker, jobs: str, tmp_path: Path
) -> None:
    """SIGKILL for one of three processes and SIGSTOP for another; the third does what they have left."""
    count = 600
    publisher = await open_channel(history_length=2 * count, redeliver_after=SHORT)
    config = durable_history_broker.config(history_length=2 * count, redeliver_after=SHORT)
    async with AsyncExitStack() as stack:
        workers = Workers(stack, config, jobs, tmp_path, 3)
        await becomes_true(workers.ready)

        async def publish(numbers: range) -> None:
            for number in numbers:
                await publisher.publish(jobs, number)

        async with anyio.create_task_group() as tasks:
            for start in range(0, count, 100):
                tasks.start_soon(publish, range(start, start + 100))
            for number, kill in enumerate((signal.SIGKILL, signal.SIGSTOP)):
                await becomes_true(lambda number=number: workers.done()[number])  # type: ignore[misc]
                os.kill(workers.processes[number].pid, kill)
        await becomes_true(lambda: len(set(workers.numbers())) == count)
        done, everything = workers.done(), workers.numbers()
    twice = {number for number in everything if everything.count(number) > 1}
    assert sorted(set(everything)) == list(range(count))
    assert twice <= {*done[0][-1:], *done[1][-1:]}, "only what these two had not acknowledged"
