"""Normal channels with acknowledged delivery: what a reader gets, when it gets the next, and who acknowledges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import BaseChannelLayer, channel_layers
from channels.worker import Worker

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.process.background_loop import background
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


def test_from_synchronous_code(server: brokers.Redis) -> None:
    layer = AnyioChannelLayer(url=brokers.with_streams(server.url), acknowledged=["jobs"])
    layer.send_sync("jobs", job(1))
    message = async_to_sync(layer.receive)("jobs")
    assert pending(server) == 1
    async_to_sync(layer.ack)(message)
    assert pending(server) == 0
    async_to_sync(layer.close)()


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
