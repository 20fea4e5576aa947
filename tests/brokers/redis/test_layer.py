"""The layer's verbs on Redis: who counts as a reader, and replies that look like something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from django_anyio_channels import AnyioChannelLayer
from tests.support.brokers import redis as brokers

from .conftest import Connect, becomes_true

pytestmark = pytest.mark.anyio


@contextmanager
def monitoring(server: brokers.Redis) -> Iterator[None]:
    """Somebody looks at every message, as an administrator does with ``PSUBSCRIBE *``."""
    with server.client() as client, client.pubsub() as monitor:
        monitor.psubscribe("*")
        assert monitor.get_message(timeout=5)
        yield


async def test_a_monitor_does_not_take_the_job_of_a_worker_that_was_killed(
    server: brokers.Redis, connect: Connect
) -> None:
    killed, sender = await connect(server.url, client_name="killed"), await connect(server.url)
    with monitoring(server):
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(Exception, match="closed"):
                    await killed.take("jobs")

            tasks.start_soon(wait)
            await becomes_true(lambda: server.ask("LLEN", "{jobs}|waiting") == 1)
            for client in server.ask("CLIENT LIST"):
                if client["name"] == "killed":
                    server.ask("CLIENT", "KILL", "ID", client["id"])
        await sender.put("jobs", b"x", capacity=10, expiry=60)
        with anyio.fail_after(30):
            assert await sender.take("jobs") == b"x"


async def test_subscribers_are_those_of_the_exact_name(server: brokers.Redis, connect: Connect) -> None:
    one, other = await connect(server.url), await connect(server.url)
    await one.subscribe("room")
    with monitoring(server):
        await other.subscribe_pattern("ro*")
        assert await one.count_subscribers("room") == 1
        assert (await one.publish("room", b"x")).receivers == 3


@pytest.mark.parametrize("streams", [False, True])
async def test_a_monitor_is_not_waited_for(server: brokers.Redis, streams: bool) -> None:
    url = brokers.with_streams(server.url) if streams else server.url
    one, other = (AnyioChannelLayer(url=url, publish_timeout=5) for _ in range(2))
    with monitoring(server), anyio.fail_after(30):
        name = await one.new_channel()
        await one.group_add("warm", name)
        await other.group_add("room", name)
        await other.group_send("room", {"type": "x"})
        assert await one.receive(name) == {"type": "x"}
        await other.flush()
        await one.close()
        await other.close()


async def test_a_reply_that_begins_like_a_push_is_a_reply(server: brokers.Redis, connect: Connect) -> None:
    layer = await connect(server.url)
    names = ["message", "pmessage", "smessage", "sunsubscribe"]
    with anyio.fail_after(30):
        for queue in names:
            await layer.bind(f"to {queue}", queue, capacity=10, expiry=60, lifetime=60)
            bound = (await layer.publish(f"to {queue}", b"x")).bound_queues
            assert [each.queue for each in bound] == [queue]
        await layer.subscribe("room")
        assert (await layer.publish("room", b"y")).receivers == 1
        assert (await layer.next_published()).message == b"y"
