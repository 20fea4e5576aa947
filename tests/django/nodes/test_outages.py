"""Outages that a test asks for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack

import anyio
import pytest

from django_anyio_channels import AnyioChannelLayer, Channel, InMemoryChannelLayer, ListenerClosed
from django_anyio_channels.django.nodes import outages
from django_anyio_channels.django.process.background_loop import background
from django_anyio_channels.hub.session import Interruption
from tests.support.brokers.server import wait_until

INTERRUPTION = Interruption("the test says so", 0.05)


def nodes_up(layer: AnyioChannelLayer) -> bool:
    """Whether all nodes of a layer are connected."""
    return all(node.channel._shards.all()[0].session is not None for node in layer._dispatcher.nodes)


def test_outage_in_every_event_loop() -> None:
    layer = AnyioChannelLayer(outage_message="went.away")
    paused = asyncio.new_event_loop()
    channel = paused.run_until_complete(layer.new_channel())
    layer.group_add_sync("jobs", "member")  # opens a node in the background loop
    paused.run_until_complete(layer.group_add("room", channel))

    async def scenario() -> None:
        own = await layer.new_channel()
        await layer.group_add("room", own)
        with layer.outage():
            for call in (layer.group_send("room", {"type": "a"}), layer.group_send("jobs", {"type": "a"})):
                with pytest.raises(ListenerClosed, match=r"No connection to memory:// for 0.1 s: the test is in"):
                    await call
        await layer.group_send("room", {"type": "b"})
        assert (await layer.receive(own))["type"] == "went.away"
        assert await layer.receive(own) == {"type": "b"}

    asyncio.run(scenario())
    with layer.outage():
        with pytest.raises(ListenerClosed):
            layer.send_sync("queue", {"type": "a"})
        with pytest.raises(ListenerClosed):
            paused.run_until_complete(layer.send(channel, {"type": "a"}))
        with layer.outage(publish_timeout=0.01):
            with pytest.raises(ListenerClosed, match="for 0.01 s"):
                layer.send_sync("queue", {"type": "a"})
        with pytest.raises(ListenerClosed, match="for 0.1 s"):
            layer.send_sync("queue", {"type": "a"})
    layer.send_sync("queue", {"type": "b"})
    assert paused.run_until_complete(layer.receive("queue")) == {"type": "b"}
    paused.run_until_complete(layer.close())
    paused.close()


def test_call_that_waits_gets_through_when_the_outage_ends() -> None:
    layer = AnyioChannelLayer()

    async def scenario() -> None:
        channel = await layer.new_channel()
        async with anyio.create_task_group() as tasks:
            with layer.outage(publish_timeout=60):
                tasks.start_soon(layer.send, channel, {"type": "a"})
                await anyio.wait_all_tasks_blocked()
        assert await layer.receive(channel) == {"type": "a"}

    asyncio.run(scenario())


def test_event_loop_that_begins_during_an_outage() -> None:
    layer = AnyioChannelLayer()

    async def scenario() -> None:
        with layer.outage():
            with pytest.raises(ListenerClosed):
                await layer.new_channel()
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "a"})
        assert await layer.receive(channel) == {"type": "a"}

    asyncio.run(scenario())


def test_closed_event_loop_is_left_alone() -> None:
    found = outages.Outages()
    loop = asyncio.new_event_loop()
    with ExitStack() as stack:

        async def open_channel() -> None:
            stack.enter_context(found.of(Channel(InMemoryChannelLayer())))

        loop.run_until_complete(open_channel())
        loop.close()
        with found.during(INTERRUPTION):
            assert found.opened == 1


def test_blocked_event_loop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_SECONDS_TO_BEGIN", 0.05)
    layer = AnyioChannelLayer()
    layer.group_add_sync("jobs", "member")
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(30)

    background.loop().call_soon_threadsafe(block)
    assert blocked.wait(30)
    threading.Timer(0.2, release.set).start()
    with pytest.raises(TimeoutError, match=r"blocked an event loop of this process for 0.05 s"):
        with layer.outage():
            raise AssertionError("never")
    release.wait(30)
    wait_until(lambda: nodes_up(layer), "the outage has ended")
    layer.send_sync("queue", {"type": "a"})
