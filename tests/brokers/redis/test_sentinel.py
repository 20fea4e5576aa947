"""The master is found through Sentinels, and found again when it is another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, ListenerClosed, RedisPubSubChannelLayer
from tests.support.brokers import redis as brokers

from .conftest import becomes_true
from .flow import flow

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def sentinels() -> Iterator[brokers.SentinelSet]:
    with brokers.sentinel_set() as made:
        yield made


def layer_of(sentinels: brokers.SentinelSet) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(sentinels.url, probe_interval=1.0)


async def test_topics_and_queues(sentinels: brokers.SentinelSet) -> None:
    layer = layer_of(sentinels)
    assert layer.address == sentinels.url
    async with Channel(layer) as channel, channel.subscribe("room") as subscriber:
        await channel.publish("room", 1)
        assert (await anext(subscriber)).message == 1
        await channel.queues.put("jobs", b"x", capacity=10, expiry=60)
        assert await channel.queues.take("jobs") == b"x"


async def test_a_name_that_the_sentinels_do_not_know(sentinels: brokers.SentinelSet) -> None:
    layer = RedisPubSubChannelLayer(sentinels.url.replace("mymaster", "nobody"))
    with pytest.raises(ListenerClosed, match=r"nobody.*Check that the Sentinels run, and the master's name"):
        await layer.connect()


async def test_sentinels_that_do_not_answer(sentinels: brokers.SentinelSet) -> None:
    layer = RedisPubSubChannelLayer("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster")
    with pytest.raises(ListenerClosed, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2/mymaster"):
        await layer.connect()


async def test_a_planned_failover(sentinels: brokers.SentinelSet) -> None:
    master = sentinels.master()
    async with flow(lambda: layer_of(sentinels)) as going:
        sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", sentinels.service)
        new = await run_sync(sentinels.wait_for_other_master, master)
        await becomes_true(lambda: new.ask("PUBSUB NUMSUB", "numbers")[0][1] == 2)
        await going.go_on(seconds=20)
    assert len(going.gaps) >= 2


async def test_the_master_is_killed(sentinels: brokers.SentinelSet) -> None:
    master = sentinels.master()
    async with flow(lambda: layer_of(sentinels), publish_timeout=20) as going:
        await going.kill(master)
        await run_sync(sentinels.wait_for_other_master, master)
        await going.go_on(seconds=20)
    assert going.lost() == [set(), set()]
    assert len(going.gaps) == 2
    await run_sync(master.server.start)
