"""Acknowledged work while servers die: what was accepted is done, and nothing is done twice without a reason."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import Channel, ListenerClosed, RedisStreamsChannelLayer, Subscriber
from tests.brokers.redis.conftest import becomes_true
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio


async def test_a_server_killed_and_restarted_with_its_log_loses_no_job() -> None:
    server = brokers.plain("redis", *brokers.WITH_AOF)
    accepted: set[int] = set()
    done: list[int] = []
    refused: set[int] = set()

    async def work(reader: Subscriber) -> None:
        async for event in reader:
            done.append(event.message)
            event.ack()

    async def publish(channel: Channel) -> None:
        number = 0
        while True:
            number += 1
            try:
                await channel.publish("jobs", number)
                accepted.add(number)
            except ListenerClosed:
                refused.add(number)
            await anyio.sleep(0.001)

    def layer() -> RedisStreamsChannelLayer:
        return RedisStreamsChannelLayer(
            brokers.with_streams(server.url), probe_interval=1.0, redeliver_after=1.0, history_length=10_000
        )

    with brokers.running(server):
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(Channel(layer())) for _ in range(3)]
            tasks = await stack.enter_async_context(anyio.create_task_group())
            for channel in channels[:2]:
                for _ in range(2):
                    reader = channel.subscribe("jobs", consumer_group="workers", ack="manual")
                    tasks.start_soon(work, await stack.enter_async_context(reader))
            tasks.start_soon(publish, channels[2])
            for _ in range(3):
                before = len(done)
                await becomes_true(lambda before=before: len(done) > before + 50)  # type: ignore[misc]
                await run_sync(server.server.kill)
                await run_sync(server.server.start)
            before = len(done)
            await becomes_true(lambda: len(done) > before + 50)
            await becomes_true(lambda: accepted <= set(done))
            tasks.cancel_scope.cancel()
    assert set(done) <= accepted | refused
    assert len(done) - len(set(done)) <= 3 * 4, "what a reader had done, and could not acknowledge, at each kill"
