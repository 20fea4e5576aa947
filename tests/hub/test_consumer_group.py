"""Consumers that share the events of a group, and the dead letters that `Channel` publishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from django_anyio_channels import (
    Backoff,
    BaseChannelLayer,
    Channel,
    ListenerClosed,
    NotSupported,
    PublishRefused,
)
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.hub.consumer_group import dead_letter_group
from django_anyio_channels.hub.sharding import shard_index
from tests.support.acknowledging import AcknowledgingLayer
from tests.support.scripted import TIME_LIMIT, ScriptedLayer, until

pytestmark = pytest.mark.anyio

encode = MessagePackSerializer().encode


@asynccontextmanager
async def hub(*layers: BaseChannelLayer, publish_timeout: float = TIME_LIMIT) -> AsyncIterator[Channel]:
    """An open Channel; the body has `TIME_LIMIT` seconds."""
    backoff = Backoff(first=0.0, longest=0.0)
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layers, backoff=backoff, publish_timeout=publish_timeout) as channel:
            yield channel


# ---- consumers -----------------------------------------------------------------------------------------------------


async def test_a_consumer_joins_and_fetches_an_event_only_when_it_waits() -> None:
    layer = AcknowledgingLayer()
    ack_handle = layer.deliver("jobs", encode("job"))
    async with hub(layer) as channel, channel.subscribe("jobs", consumer_group="workers") as subscriber:
        assert layer.joined == [("jobs", "workers")]
        assert layer.names == {"jobs"}
        await anyio.wait_all_tasks_blocked()
        assert layer.count("receive_event") == 0
        event = await subscriber.receive()
        assert (event.group, event.message, event.deliveries) == ("jobs", "job", 1)
        assert layer.count("receive_event") == 1
        assert ack_handle.acknowledged, "a reader took it"


async def test_with_manual_acknowledgement_the_consumer_acknowledges() -> None:
    layer = AcknowledgingLayer()
    ack_handle = layer.deliver("jobs", encode("job"), deliveries=3)
    async with hub(layer) as channel, channel.subscribe("jobs", consumer_group="workers", ack="manual") as subscriber:
        event = await subscriber.receive()
        assert event.deliveries == 3
        assert ack_handle.holders == 1
        await event.ack()
        assert ack_handle.acknowledged


async def test_a_publish_notifies_the_layer_and_is_no_event() -> None:
    layer = AcknowledgingLayer()
    async with hub(layer) as channel, channel.subscribe("jobs", consumer_group="workers") as subscriber:
        await channel.publish("jobs", "job")
        await until(lambda: layer.notified == ["jobs"])
        assert len(subscriber) == 0


async def test_the_layers_consumer_group_is_that_of_subscriptions_without_one() -> None:
    layer = AcknowledgingLayer()
    layer.consumer_group = "everybody"
    async with hub(layer) as channel:
        async with channel.subscribe("jobs"), channel.subscribe("jobs", consumer_group="workers"):
            assert layer.joined == [("jobs", "everybody"), ("jobs", "workers")]
        with pytest.raises(TypeError, match="The consumers of 'everybody' share one group; subscribe to each group by"):
            async with channel.subscribe("jobs", "mail"):
                pass


@pytest.mark.parametrize("how", ["two groups", "a pattern", "since"])
async def test_a_consumer_group_has_one_group_without_history(how: str) -> None:
    async with hub(AcknowledgingLayer()) as channel:
        groups, pattern = ("jobs", "mail") if how == "two groups" else ("jobs",), "j*" if how == "a pattern" else None
        since = "1-1" if how == "since" else None
        with pytest.raises(TypeError, match="without pattern and since, or without a consumer group"):
            async with channel.subscribe(*groups, pattern=pattern, since=since, consumer_group="workers"):
                pass


async def test_a_layer_that_delivers_once_has_no_consumer_groups() -> None:
    async with hub(ScriptedLayer()) as channel:
        with pytest.raises(NotSupported, match=r"ScriptedLayer does not support acknowledgement.*redis\+streams://"):
            async with channel.subscribe("jobs", consumer_group="workers"):
                pass
        with pytest.raises(NotSupported, match="does not support acknowledgement"):
            await channel.queues.receive_job("jobs", "dead")


async def test_a_waiting_consumer_outlives_outages_and_ends_with_its_subscription() -> None:
    layer = AcknowledgingLayer()
    ended: list[str] = []
    async with hub(layer) as channel, anyio.create_task_group() as tasks:
        async with channel.subscribe("jobs", consumer_group="workers") as subscriber:

            async def read() -> None:
                ended.append((await subscriber.receive()).message)
                with pytest.raises(ListenerClosed, match="jobs is closed"):
                    await subscriber.receive()
                ended.append("closed")

            tasks.start_soon(read)
            await until(lambda: layer.count("receive_event") == 1)
            layer.fail("connect", *[ListenerClosed("refused")] * 3)
            layer.play(ListenerClosed("the connection broke"))
            await until(lambda: layer.count("receive_event") == 2)
            layer.deliver("jobs", encode("job"))
            await until(lambda: layer.count("receive_event") == 3)
    assert ended == ["job", "closed"]


# ---- dead letters --------------------------------------------------------------------------------------------------


def test_the_name_of_the_dead_letters() -> None:
    assert dead_letter_group("jobs", "workers") == "jobs.workers.dead"


async def test_an_event_that_was_delivered_too_often_is_published_and_acknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = AcknowledgingLayer()
    dead = layer.deliver("jobs", encode("poison"), deliveries=4)
    layer.deliver("jobs", encode("job"), deliveries=3)
    async with hub(layer) as channel:
        async with (
            channel.subscribe("jobs.workers.dead") as letters,
            channel.subscribe("jobs", consumer_group="workers") as subscriber,
        ):
            assert (await subscriber.receive()).message == "job"
            assert dead.acknowledged
            assert channel.stats.dead_letters == 1
            assert (await letters.receive()).message == "poison"
    [record] = caplog.records
    assert record.getMessage() == (
        "A message of jobs was delivered 3 times without being acknowledged; "
        "it is now a dead letter in jobs.workers.dead"
    )


async def test_a_job_that_was_delivered_too_often_goes_to_the_group_that_is_named() -> None:
    layer = AcknowledgingLayer()
    dead = [layer.deliver("q", encode(number), deliveries=4) for number in range(3)]
    job = layer.deliver("q", encode("job"))
    async with hub(layer) as channel:
        event = await channel.queues.receive_job("q", "graveyard")
    assert event.message == encode("job")
    assert not job.acknowledged
    assert all(ack_handle.acknowledged for ack_handle in dead)
    assert layer.published == [("graveyard", encode(number)) for number in range(3)]


@pytest.mark.parametrize("error", [PublishRefused("no permission"), ZeroDivisionError("no permission")])
async def test_an_event_whose_dead_letter_cannot_be_published_is_not_acknowledged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    layer = AcknowledgingLayer()
    dead = layer.deliver("jobs", encode("poison"), deliveries=4)
    layer.deliver("jobs", encode("job"))
    layer.fail("publish", error)
    async with hub(layer) as channel, channel.subscribe("jobs", consumer_group="workers") as subscriber:
        assert (await subscriber.receive()).message == "job"
    assert dead.holders == 1
    [record] = caplog.records
    assert (
        record.getMessage()
        == "A message of jobs cannot be sent to the dead letters, and is delivered again: no permission"
    )
    assert bool(record.exc_info) == isinstance(error, ZeroDivisionError), "a mistake has its traceback"


async def test_a_reader_that_is_cancelled_meanwhile_does_not_interrupt_the_dead_letter() -> None:
    """Its time limit may be shorter than a round trip, each time."""
    layer = AcknowledgingLayer()
    dead = layer.deliver("q", encode("poison"), deliveries=4)
    async with hub(layer) as channel:
        release = layer.hold("publish")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.queues.receive_job, "q", "dead")
                await until(lambda: layer.count("publish") == 1)
                scope.cancel()
        assert not dead.acknowledged
        release()
        await until(lambda: dead.acknowledged)
    assert layer.published == [("dead", encode("poison"))]


async def test_a_channel_that_is_closed_meanwhile_leaves_the_event_unacknowledged() -> None:
    layer = AcknowledgingLayer()
    dead = layer.deliver("q", encode("poison"), deliveries=4)
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            async with hub(layer) as channel:

                async def receive() -> None:
                    with pytest.raises(ListenerClosed):
                        await channel.queues.receive_job("q", "dead")

                layer.hold("publish")
                tasks.start_soon(receive)
                await until(lambda: layer.count("publish") == 1)
    assert not dead.acknowledged


# ---- lists of brokers ----------------------------------------------------------------------------------------------


def group_whose_dead_letters_are_elsewhere() -> tuple[str, int]:
    """Return a group and its place in a list of two brokers."""
    for number in range(100):
        group = f"jobs{number}"
        place = shard_index(group, 2)
        if shard_index(dead_letter_group(group, "workers"), 2) != place:
            return group, place
    raise AssertionError("none of 100 names")


async def test_the_dead_letters_of_a_group_may_be_at_another_broker() -> None:
    layers = [AcknowledgingLayer(), AcknowledgingLayer()]
    group, place = group_whose_dead_letters_are_elsewhere()
    dead = layers[place].deliver(group, encode("poison"), deliveries=4)
    layers[place].deliver(group, encode("job"))
    async with hub(*layers) as channel, channel.subscribe(group, consumer_group="workers") as subscriber:
        assert (await subscriber.receive()).message == "job"
    assert dead.acknowledged
    assert layers[1 - place].published == [(f"{group}.workers.dead", encode("poison"))]
    assert layers[place].published == []


async def test_while_the_broker_of_the_dead_letters_is_down_the_event_is_not_acknowledged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers = [AcknowledgingLayer(), AcknowledgingLayer()]
    group, place = group_whose_dead_letters_are_elsewhere()
    dead = layers[place].deliver(group, encode("poison"), deliveries=4)
    layers[place].deliver(group, encode("job"))
    layers[1 - place].hold("connect")
    async with hub(*layers, publish_timeout=0.05) as channel:
        await until(lambda: layers[place].readers)
        async with channel.subscribe(group, consumer_group="workers") as subscriber:
            assert (await subscriber.receive()).message == "job"
            assert channel.outages == 0, "the other broker's connection is not lost by that"
    assert dead.holders == 1
    assert "cannot be sent to the dead letters, and is delivered again: No connection to scripted://fake" in caplog.text


async def test_natively_cancelled_readers_do_not_interrupt_it_either(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        return
    layer = AcknowledgingLayer()
    dead = layer.deliver("q", encode("poison"), deliveries=4)
    async with hub(layer) as channel:
        release = layer.hold("publish")
        reader = asyncio.ensure_future(channel.queues.receive_job("q", "dead"))
        await until(lambda: layer.count("publish") == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        release()
        await until(lambda: dead.acknowledged)
