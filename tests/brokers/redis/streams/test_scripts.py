"""Every script of histories and acknowledged delivery declares the keys that it touches."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from django_anyio_channels import RedisStreamsChannelLayer
from django_anyio_channels.brokers.redis.scripts import Script
from django_anyio_channels.brokers.redis.streams import consumer_groups, history
from tests.brokers.redis.test_scripts import shimmed
from tests.support.brokers import redis as brokers
from tests.support.layers import connecting

__all__ = ["shimmed"]

pytestmark = pytest.mark.anyio


async def test_no_script_touches_an_undeclared_key(server: brokers.Redis, shimmed: list[Script]) -> None:
    url = brokers.with_streams(server.url)
    async with connecting(RedisStreamsChannelLayer) as connect:
        layer, other = [await connect(url, redeliver_after=0.2, history_bytes=100_000) for _ in range(2)]
        with anyio.fail_after(30):
            for number in range(2):  # the second time over what another program has written
                await layer.subscribe(f"group{number}")
                await layer.join("jobs", "workers")
                await layer.position("empty")
                await layer.publish("jobs", b"large" * 10_000)
                published = await asyncio.gather(*(layer.publish("jobs", b"%d" % each) for each in range(5)))
                since = published[0].position
                assert len(await layer.history("jobs", since=since, limit=None)) == 4
                assert len(await layer.history("jobs", since=None, limit=3)) == 3
                await layer.put("queue", b"job", capacity=10, expiry=60)
                for event in (await layer.receive_event("jobs", "workers"), await layer.receive_job("queue")):
                    await event.ack()
                await layer.receive_event("jobs", "workers")
                await layer.disconnect()
                assert (await other.receive_event("jobs", "workers")).deliveries == 2
                await layer.connect()
                with server.client() as raw:
                    for key in raw.keys("{*}|*"):
                        raw.delete(key)
                        raw.hset(key, "field", "of another type")
            await layer.purge("")
    names = {
        script
        for module in (history, consumer_groups)
        for script in vars(module).values()
        if isinstance(script, Script)
    }
    assert names <= set(shimmed)
    assert [script.text for script in names if server.ask("SCRIPT", "EXISTS", script._sha) != [True]] == []
