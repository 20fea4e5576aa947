"""`hub.measured`: what a `Channel` with a recorder records."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from django_anyio_channels import (
    Backoff,
    BaseChannelLayer,
    ChannelLayerError,
    Event,
    InMemoryBroker,
    InMemoryChannelLayer,
)
from django_anyio_channels.core.capabilities import QueueLength, SupportsQueueLength
from django_anyio_channels.core.encryption import Encryption
from django_anyio_channels.core.telemetry import Recorder
from django_anyio_channels.hub import measured
from django_anyio_channels.hub.measured import MeasuredChannel
from tests.support.acknowledging import AcknowledgingLayer
from tests.support.scripted import ScriptedLayer, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "POLL_SECONDS", 0.001)


def measured_channel(*layers: BaseChannelLayer, **options: Any) -> tuple[MeasuredChannel, Recorder]:
    recorder = Recorder()
    return MeasuredChannel(layers, recorder=recorder, backoff=Backoff(0.0, 0.0), **options), recorder


@pytest.mark.parametrize("keys", [None, ["a key"]], ids=["plain", "encrypted"])
async def test_events_are_counted_for_each_subscriber_and_timed_once(keys: list[str] | None) -> None:
    layer = InMemoryChannelLayer()
    channel, recorder = measured_channel(layer, encryption=None if keys is None else Encryption(keys))
    async with channel, channel.subscribe("g") as one, channel.subscribe("g", pattern="g*") as other:
        await channel.publish("g", "hello")
        assert [(await each.receive()).message for each in (one, other, other)] == ["hello", "hello", "hello"]
        assert recorder.delivered == 3
        assert recorder.lag.count == 2, "the event comes by the group, and by the pattern"
        assert 0.0 <= recorder.lag.sum < 10.0
        layer.broker.publish("g", b"\xc1 is never used in MessagePack")
        if keys is not None:
            await until(lambda: channel.stats.undecodable == 2)
            assert recorder.delivered == 3


class LaggingLayer(ScriptedLayer):
    """It says when an event was published: at second 5 of the epoch."""

    def published_at(self, position: str) -> float:
        assert position == "at five"
        return 5.0


async def test_the_lag_begins_where_the_position_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_anyio_channels.core.telemetry.time", lambda: 7.5)
    layer = LaggingLayer()
    channel, recorder = measured_channel(layer)
    async with channel, channel.subscribe("g") as subscriber:
        layer.play(Event("g", channel.encode(1), position="at five"))
        assert (await subscriber.receive()).message == 1
    assert (recorder.lag.count, recorder.lag.sum) == (1, 2.5)


class CountingLayer(InMemoryChannelLayer):
    """Its broker may not be asked for the lengths of queues."""

    error: Exception | None = None

    async def queue_length(self, queue: str) -> QueueLength:
        if self.error is not None:
            raise self.error
        return await super().queue_length(queue)


async def test_the_lengths_of_the_queues_that_are_read_are_known(caplog: pytest.LogCaptureFixture) -> None:
    layer = CountingLayer(broker=InMemoryBroker())
    channel, recorder = measured_channel(layer)
    async with channel:
        for queue in ("read", "unread"):
            for _ in range(3):
                await channel.queues.put(queue, b"1", capacity=5, expiry=60.0)
        assert await channel.queues.take("read") == b"1"
        await until(lambda: recorder.queues == {"read": QueueLength(2, 0)})
        for error, trace in ((ChannelLayerError("not allowed"), False), (ZeroDivisionError("a bug"), True)):
            layer.error = error
            caplog.clear()
            await until(lambda: recorder.queues == {} and bool(caplog.records))
            record = caplog.records[0]
            assert record.levelno == logging.WARNING
            assert record.getMessage() == f"The length of queue read is unknown: {error}"
            assert bool(record.exc_info) is trace
            layer.error = None
            await until(lambda: recorder.queues == {"read": QueueLength(2, 0)})


async def test_a_broker_that_cannot_count_is_not_asked() -> None:
    layer = ScriptedLayer()
    assert not isinstance(layer, SupportsQueueLength)
    channel, recorder = measured_channel(layer)
    async with channel:
        await channel.queues.put("jobs", b"1", capacity=5, expiry=60.0)
        assert await channel.queues.take("jobs") == b"1"
        queues = channel.queues
        assert isinstance(queues, measured._MeasuredQueues)
        await queues._ask("jobs", recorder)
    await queues._ask("jobs", recorder)
    assert recorder.queues == {}


class CountingAcknowledgingLayer(AcknowledgingLayer):
    """Its broker counts what it has, and nothing is pending."""

    async def queue_length(self, queue: str) -> QueueLength:
        return QueueLength(len(self.pending[queue]), 0)


async def test_the_lengths_of_the_queues_that_jobs_come_from_are_known() -> None:
    layer = CountingAcknowledgingLayer()
    channel, recorder = measured_channel(layer)
    async with channel:
        for message in (b"1", b"2"):
            layer.deliver("jobs", message)
        assert (await channel.queues.receive_job("jobs", "dead")).message == b"1"
        await until(lambda: recorder.queues == {"jobs": QueueLength(1, 0)})
