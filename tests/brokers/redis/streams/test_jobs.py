"""Normal channels with acknowledged delivery: what a reader gets, when it gets the next, and who acknowledges."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import anyio
import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import ChannelFull, StopConsumer
from channels.layers import BaseChannelLayer, channel_layers
from channels.worker import Worker

from django_anyio_channels import AnyioChannelLayer, ListenerClosed
from django_anyio_channels.django.background_loop import background
from django_anyio_channels.hub import measured
from tests.brokers.redis.conftest import becomes_true
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio

SHORT = 0.8
"""Seconds after which what nobody acknowledged comes again, in tests that wait for it."""
TIME_LIMIT = 30.0

NewLayer = Callable[..., AnyioChannelLayer]


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """The process's background loop keeps its connections, and would connect them again during other tests."""
    yield
    background.stop()
    background.reset()


@pytest.fixture
async def new_layer(server: brokers.Redis) -> AsyncIterator[NewLayer]:
    """Makes layers as Django does, each as in a process of its own."""
    made: list[AnyioChannelLayer] = []

    def new(**options: Any) -> AnyioChannelLayer:
        keys = {"capacity", "expiry", "telemetry", "symmetric_encryption_keys"} & options.keys()
        settings = {key: options.pop(key) for key in keys}
        made.append(
            AnyioChannelLayer(url=brokers.with_streams(server.url), acknowledged=["jobs*"], options=options, **settings)
        )
        return made[-1]

    yield new
    for layer in made:
        await layer.close()


def job(number: int) -> dict[str, Any]:
    return {"type": "job.do", "number": number}


async def next_of(layer: AnyioChannelLayer, channel: str = "jobs") -> Any:
    """The next message, received by a task of its own: nothing before it holds it up."""
    return await asyncio.wait_for(asyncio.ensure_future(layer.receive(channel)), TIME_LIMIT)


async def test_jobs_that_wait_and_that_are_pending_are_measured(
    new_layer: NewLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "POLL_SECONDS", 0.01)
    layer = new_layer(telemetry="prometheus")

    def lengths() -> tuple[float | None, float | None]:
        found = layer.statistics()
        return found.get("queued"), found.get("pending")

    for number in range(3):
        await layer.send("jobs", job(number))
    taken = await next_of(layer)
    await becomes_true(lambda: lengths() == (2, 1))
    await layer.ack(taken)
    await becomes_true(lambda: lengths() == (2, 0))


def pending(server: brokers.Redis) -> int:
    return int(server.ask("ZCARD", "{asgi:q:jobs}|pending"))


# ---- readers -----------------------------------------------------------------------------------------------------


async def test_what_is_acknowledged_does_not_come_again(server: brokers.Redis, new_layer: NewLayer) -> None:
    sender, reader = new_layer(), new_layer(redeliver_after=SHORT)
    for number in range(2):
        await sender.send("jobs", job(number))
    first, second = await next_of(reader), await next_of(reader)
    assert (first, second) == (job(0), job(1))
    assert (first.deliveries, second.deliveries) == (1, 1)
    await reader.ack(first)
    await reader.ack(first)
    again = await next_of(reader)
    assert (again, again.deliveries) == (job(1), 2)
    await reader.ack(again)
    assert pending(server) == 0


async def test_encrypted_jobs_come_again_and_become_dead_letters(new_layer: NewLayer) -> None:
    options = {"redeliver_after": SHORT, "deliver_at_most": 2, "symmetric_encryption_keys": ["a key of this test"]}
    sender, reader = new_layer(**options), new_layer(**options)
    member = await sender.new_channel()
    await sender.group_add("jobs.dead", member)
    await sender.send("jobs", job(0))
    assert [(await next_of(reader)).deliveries for _ in range(2)] == [1, 2]
    reading = asyncio.ensure_future(next_of(reader))
    letter = await asyncio.wait_for(sender.receive(member), TIME_LIMIT)
    await sender.send("jobs", job(1))
    assert await reading == job(1)
    [kept] = await reader.group_history("jobs.dead")
    assert letter == kept.message == job(0)
    channel = await reader.new_channel()
    assert await reader.group_resume("jobs.dead", channel, last=1) is None
    assert await asyncio.wait_for(reader.receive(channel), TIME_LIMIT) == job(0)


async def test_a_task_gets_the_next_when_it_has_acknowledged(server: brokers.Redis, new_layer: NewLayer) -> None:
    layer = new_layer()
    for number in range(3):
        await layer.send("jobs", job(number))
    held = await layer.receive("jobs")
    received: list[int] = []

    async def receive_two() -> None:
        mine = await layer.receive("jobs")
        received.append(mine["number"])
        mine = await layer.receive("jobs")
        received.append(mine["number"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive_two)
        await becomes_true(lambda: received)
        last = await next_of(new_layer())
        assert (last, received, pending(server)) == (job(2), [1], 3), "others need not wait for these tasks"
        tasks.cancel_scope.cancel()
    await layer.ack(held)
    await layer.send("jobs", job(3))
    assert (await layer.receive("jobs"))["number"] == 3


async def test_a_task_that_never_acknowledges_goes_on_after_a_while(
    new_layer: NewLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = new_layer(redeliver_after=SHORT)
    await layer.send("jobs", job(1))
    with anyio.fail_after(TIME_LIMIT):
        assert await layer.receive("jobs") == job(1)
        again = await layer.receive("jobs")
    assert (again, cast(Any, again).deliveries) == (job(1), 2)
    assert "jobs was not acknowledged within 0.8 s (redeliver_after), and goes to another reader" in caplog.text


async def test_polling_loses_nothing(new_layer: NewLayer) -> None:
    sender, layer = new_layer(), new_layer()
    got: list[int] = []
    chance = random.Random(1)

    async def send() -> None:
        for number in range(100):
            await sender.send("jobs", job(number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with anyio.fail_after(TIME_LIMIT):
            while len(got) < 100:
                try:
                    message = await asyncio.wait_for(layer.receive("jobs"), chance.choice([0, 0.001, 0.005]))
                except TimeoutError:
                    continue
                got.append(message["number"])
                await layer.ack(message)
    assert got == list(range(100))


async def test_other_channels_and_layers_need_no_acknowledgement(new_layer: NewLayer) -> None:
    for layer in (new_layer(), AnyioChannelLayer()):
        for channel in ("mail", await layer.new_channel()):
            await layer.send(channel, job(1))
            message = await next_of(layer, channel)
            assert type(message) is dict
            await layer.ack(message)
            await layer.ack(message)
        await layer.close()


async def test_capacity_expiry_groups_and_flush(server: brokers.Redis, new_layer: NewLayer) -> None:
    layer = new_layer(capacity=2, expiry=2.0, redeliver_after=SHORT)
    await layer.group_add("everybody", "jobs")
    await layer.group_send("everybody", job(0))
    await layer.send("jobs", job(1))
    with pytest.raises(ChannelFull, match="capacity 2"):
        await layer.send("jobs", job(2))
    taken = await next_of(layer)
    assert taken == job(0)
    await layer.send("jobs", job(3))
    await anyio.sleep(2.1)
    again = await next_of(layer)
    assert (again, again.deliveries) == (job(0), 2), "what was read does not expire; what was not, did"
    await layer.flush()
    assert pending(server) == 0
    await layer.send("jobs", job(4))
    assert await next_of(layer) == job(4)


async def test_what_a_layer_has_pending_goes_to_others_when_it_closes(new_layer: NewLayer) -> None:
    leaving, other = new_layer(), new_layer()
    await leaving.send("jobs", job(1))
    assert await next_of(leaving) == job(1)
    await leaving.close()
    again = await next_of(other)
    assert (again, again.deliveries) == (job(1), 2)


async def test_what_nobody_can_decode_is_no_job(
    server: brokers.Redis, new_layer: NewLayer, caplog: pytest.LogCaptureFixture
) -> None:
    layer = new_layer()
    server.ask("RPUSH", "asgi:q:jobs", "9999999999999 this is no MessagePack")
    await layer.send("jobs", job(1))
    message = await next_of(layer)
    assert message == job(1)
    await layer.ack(message)
    assert pending(server) == 0
    assert "Dropped a message for jobs" in caplog.text


# ---- other threads and loops -------------------------------------------------------------------------------------


def test_from_synchronous_code(server: brokers.Redis) -> None:
    layer = AnyioChannelLayer(url=brokers.with_streams(server.url), acknowledged=["jobs"])
    layer.send_sync("jobs", job(1))
    message = async_to_sync(layer.receive)("jobs")
    assert pending(server) == 1
    async_to_sync(layer.ack)(message)
    assert pending(server) == 0
    async_to_sync(layer.close)()


def test_a_loop_that_has_ended_has_released_them(server: brokers.Redis) -> None:
    layer = AnyioChannelLayer(url=brokers.with_streams(server.url), acknowledged=["jobs"])

    async def take() -> Any:
        await layer.send("jobs", job(1))
        return await layer.receive("jobs")

    async def acknowledge(message: Any) -> None:
        with pytest.raises(ListenerClosed, match=r"has ended, it returned it to the other readers"):
            await layer.ack(message)
        again = await next_of(layer)
        assert (again, again.deliveries) == (job(1), 2)
        await layer.ack(again)

    asyncio.run(acknowledge(asyncio.run(take())))
    assert pending(server) == 0


async def test_a_job_for_a_caller_who_has_gone_is_put_again(server: brokers.Redis, new_layer: NewLayer) -> None:
    layer = new_layer()
    await layer.send("jobs", job(1))
    node = await layer._dispatcher._nodes.get_or_open()
    node.put_back("jobs", await next_of(layer))
    node.put_back("mail", job(2))
    again = await next_of(layer)
    assert (again, again.deliveries) == (job(1), 1)
    assert await next_of(layer, "mail") == job(2)
    await becomes_true(lambda: pending(server) == 1)


# ---- consumers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def layer(new_layer: NewLayer) -> Iterator[AnyioChannelLayer]:
    """What ``get_channel_layer()`` returns during the test."""
    layer = new_layer(redeliver_after=1.0)
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", cast(BaseChannelLayer, before))


class Recorder:
    """What the consumers of one test have done."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.may_go_on = asyncio.Event()


RECORD: list[Recorder] = []


@pytest.fixture
def record() -> Iterator[Recorder]:
    RECORD.append(Recorder())
    yield RECORD[0]
    RECORD.clear()


class Async(AsyncConsumer):
    async def job_do(self, message: dict[str, Any]) -> None:
        RECORD[0].done.append(message["number"])

    async def job_wait(self, message: dict[str, Any]) -> None:
        await RECORD[0].may_go_on.wait()

    async def job_fail(self, message: dict[str, Any]) -> None:
        await self.job_do(message)
        if message.deliveries == 1:  # type: ignore[attr-defined]
            raise ArithmeticError("the first time it fails")

    async def job_last(self, message: dict[str, Any]) -> None:
        await self.job_do(message)
        raise StopConsumer

    async def tell_name(self, message: dict[str, Any]) -> None:
        await self.channel_layer.send("names", {"type": "name", "name": self.channel_name})


class Sync(SyncConsumer):
    def job_do(self, message: dict[str, Any]) -> None:
        RECORD[0].done.append(message["number"])


@pytest.fixture
async def work(layer: AnyioChannelLayer) -> AsyncIterator[Callable[[Any], None]]:
    """Runs a worker over a consumer, as ``runworker`` does."""
    workers: list[asyncio.Task[Any]] = []

    def start(consumer: Any) -> None:
        worker: Any = Worker(consumer.as_asgi(), ["jobs"], layer)
        workers.append(asyncio.ensure_future(worker.arun()))

    yield start
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)


@pytest.mark.filterwarnings("ignore:async_to_sync was passed a non-async-marked callable")  # Channels' own lambda
@pytest.mark.parametrize("consumer", [Async, Sync])
async def test_a_job_is_acknowledged_when_its_consumer_has_handled_it(
    server: brokers.Redis, layer: AnyioChannelLayer, record: Recorder, work: Callable[[Any], None], consumer: Any
) -> None:
    work(consumer)
    for number in range(5):
        await layer.send("jobs", job(number))
    await becomes_true(lambda: len(record.done) == 5)
    await becomes_true(lambda: pending(server) == 0)
    assert record.done == list(range(5))


async def test_a_worker_takes_one_job_at_a_time(
    server: brokers.Redis, layer: AnyioChannelLayer, record: Recorder, work: Callable[[Any], None], new_layer: NewLayer
) -> None:
    work(Async)
    await layer.send("jobs", {"type": "job.wait"})
    await becomes_true(lambda: pending(server) == 1)
    await layer.send("jobs", job(1))
    other = new_layer()
    message = await next_of(other)
    assert message == job(1), "for a worker that is free"
    await other.ack(message)
    record.may_go_on.set()
    await becomes_true(lambda: pending(server) == 0)


async def test_a_failed_job_comes_again_and_holds_up_nobody(
    server: brokers.Redis, layer: AnyioChannelLayer, record: Recorder, work: Callable[[Any], None]
) -> None:
    work(Async)
    await layer.send("jobs", {"type": "job.fail", "number": 1})
    await layer.send("jobs", job(2))
    await becomes_true(lambda: len(record.done) == 3)
    assert record.done == [1, 2, 1]
    await becomes_true(lambda: pending(server) == 0)


async def test_a_consumer_that_stops_has_done_its_job(
    server: brokers.Redis, layer: AnyioChannelLayer, record: Recorder, work: Callable[[Any], None]
) -> None:
    work(Async)
    await layer.send("jobs", {"type": "job.last", "number": 1})
    await layer.send("jobs", job(2))
    await becomes_true(lambda: record.done == [1, 2])
    await becomes_true(lambda: pending(server) == 0)


async def test_what_is_sent_to_the_consumers_own_name_is_no_job(
    layer: AnyioChannelLayer, record: Recorder, work: Callable[[Any], None]
) -> None:
    work(Async)
    await layer.send("jobs", {"type": "tell.name"})
    name = (await next_of(layer, "names"))["name"]
    await layer.send(name, job(1))
    await becomes_true(lambda: record.done == [1])
