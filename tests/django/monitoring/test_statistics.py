"""`django.monitoring.statistics`: the numbers of a layer, over outages, drops and event loops that have ended."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.core.capabilities import QueueLength
from django_anyio_channels.hub.channel import Channel

from ..helpers import connection_of, layers, node_in, soon, take_down

MEASURED: dict[str, Any] = {"telemetry": "prometheus"}
OPTIONAL = {"published", "publish_failures", "delivered", "queued", "pending"}


def test_what_is_open_and_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        (layer,) = layers(1)
        one, other = [await layer.new_channel() for _ in range(2)]
        await layer.group_add("g", one)
        await layer.group_add("h", one)
        await layer.group_add("g", other)
        found = layer.statistics()
        assert (found["nodes"], found["channels"], found["members"], found["topics"]) == (1, 2, 3, 4)
        assert found["oldest_message"] == 0.0
        await layer.group_send("g", {"type": "x"})
        await layer.receive(one)
        arrived = next(iter(node_in(layer).local_channels)).mailbox.oldest
        assert arrived is None
        [waiting] = [each for each in node_in(layer).local_channels if each.mailbox.oldest is not None]
        assert waiting.mailbox.oldest is not None
        monkeypatch.setattr(
            "django_anyio_channels.django.monitoring.statistics.monotonic",
            lambda: (waiting.mailbox.oldest or 0.0) + 7.0,
        )
        assert layer.statistics()["oldest_message"] == pytest.approx(7.0)

    asyncio.run(main())


def test_nothing_is_measured_unless_it_is_asked_for() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.group_add("g", await layer.new_channel())
        node = node_in(layer)
        # The hot path has no part more.
        assert type(node.channel) is Channel
        assert node.recorder is None
        assert node.publish == node.channel.publish_payload
        assert node._put == node.channel.queues.put
        assert layer._dispatcher.totals.without_node is None
        supervisor = node.channel._shards.only
        assert supervisor is not None
        assert supervisor._deliver == supervisor.subscriptions.deliver
        assert not OPTIONAL & layer.statistics().keys()
        assert "group_send" not in vars(layer)

    asyncio.run(main())


def test_messages_are_counted_and_commands_are_not() -> None:
    async def main() -> None:
        one, other = layers(2, **MEASURED, capacity=2)
        member, remote = await one.new_channel(), await other.new_channel()
        await other.group_add("g", member)  # a command to the node of the other layer
        await one.group_add("g", remote)
        await soon(one.group_send("g", {"type": "x"}))
        await soon(one.send(remote, {"type": "y"}))
        for _ in range(2):
            await soon(other.receive(remote))
        assert await soon(one.receive(member)) == {"type": "x"}
        found, theirs = one.statistics(), other.statistics()
        assert (found["published"], found["delivered"], found["publish_failures"]) == (2, 1, 0)
        assert (theirs["published"], theirs["delivered"]) == (0, 2)
        for _ in range(4):
            await one.group_send("g", {"type": "x"})
        found = one.statistics()
        assert (found["dropped"], found["dropped_capacity"], found["dropped_queue"]) == (2, 2, 0)
        assert found["delivered"] == 3
        for _ in range(2):
            await one.send("jobs", {"type": "x"})
        with pytest.raises(ChannelFull):
            await one.send("jobs", {"type": "x"})
        found = one.statistics()
        assert (found["published"], found["publish_failures"]) == (8, 1)
        assert not {"queued", "pending"} & found.keys()
        recorder = node_in(one).recorder
        assert recorder is not None
        recorder.queues = {"q": QueueLength(2, 3), "r": QueueLength(4, 5)}
        found = one.statistics()
        assert (found["queued"], found["pending"]) == (6, 8)
        measured = one.measurements()
        assert measured.statistics["queued"] == 6
        assert (measured.publish_time.count, measured.lag.count) == (8, 3), "neither commands nor what was dropped"

    asyncio.run(main())


def test_a_layer_that_measures_nothing_has_empty_measurements() -> None:
    measured = AnyioChannelLayer().measurements()
    assert (measured.publish_time.count, measured.lag.count) == (0, 0)


def test_publishing_without_a_node_is_counted() -> None:
    layer = AnyioChannelLayer(**MEASURED, capacity=1)
    layer.group_send_sync("g", {"type": "x"})
    layer.send_sync("jobs", {"type": "x"})
    with pytest.raises(ChannelFull):
        layer.send_sync("jobs", {"type": "x"})
    found = layer.statistics()
    assert (found["nodes"], found["published"], found["publish_failures"]) == (0, 2, 1)


def test_outages_and_their_seconds() -> None:
    async def main() -> None:
        (layer,) = layers(1)
        await layer.new_channel()
        connection = await take_down(layer)
        found = layer.statistics()
        assert (found["outages"], found["reconnects"], found["disconnected"]) == (1, 0, 1)
        assert layer.statistics()["outage_seconds"] > found["outage_seconds"] >= 0.0
        connection.is_down = False
        await soon(node_in(layer).channel.connected())
        found = layer.statistics()
        assert (found["outages"], found["reconnects"], found["disconnected"]) == (1, 1, 0)
        assert layer.statistics()["outage_seconds"] == found["outage_seconds"] > 0.0

    asyncio.run(main())


def test_counters_outlive_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    (layer,) = layers(1, **MEASURED, capacity=1)

    async def main() -> None:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        for _ in range(3):
            await layer.group_send("g", {"type": "x"})
        connection_of(layer).cut()
        await soon(node_in(layer).channel.connected())
        recorder = node_in(layer).recorder
        assert recorder is not None
        recorder.queues = {"q": QueueLength(2, 3)}

    for times in (1, 2):
        asyncio.run(main())
        found = layer.statistics()
        assert (found["nodes"], found["channels"], found["members"]) == (0, 0, 0)
        assert (found["published"], found["delivered"], found["dropped"]) == (3 * times, times, 2 * times)
        assert "queued" not in found


def test_a_node_that_closes_is_counted_once() -> None:
    async def main() -> None:
        (layer,) = layers(1, **MEASURED, capacity=1)
        await layer.group_add("g", await layer.new_channel())
        for _ in range(3):
            await layer.group_send("g", {"type": "x"})
        totals, node = layer._dispatcher.totals, node_in(layer)
        before = totals.counts([node])
        totals.close(node)
        # Another thread may have asked for the open nodes just before.
        assert totals.counts([node]) == before
        recorded = totals.recorded([node])
        assert recorded is not None
        assert recorded.publish_time.count == 3
        assert layer._dispatcher.nodes == []

    asyncio.run(main())


def test_a_forked_child_counts_from_zero() -> None:
    layer = AnyioChannelLayer(**MEASURED)
    layer.group_send_sync("g", {"type": "x"})
    child = os.fork()
    if child == 0:
        layer.group_send_sync("g", {"type": "x"})
        layer.group_send_sync("g", {"type": "x"})
        os._exit(int(layer.statistics()["published"]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert layer.statistics()["published"] == 1
