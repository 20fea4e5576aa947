"""What the layer says of its nodes, its queues and its brokers; the command's tests have the rest."""

from __future__ import annotations

import asyncio

import pytest

from django_anyio_channels import AnyioChannelLayer, InMemoryBroker, InMemoryChannelLayer
from django_anyio_channels.core.inspection import Finding
from tests.support.scripted import ScriptedLayer

from ..helpers import layers


class Slow(InMemoryChannelLayer):
    async def connect(self) -> None:
        await asyncio.get_running_loop().create_future()


class AtNodes(InMemoryChannelLayer):
    queues_are_at_nodes = True


def test_a_broker_that_does_not_answer_is_a_finding() -> None:
    async def main() -> None:
        options = {"broker": InMemoryBroker()}
        layer = AnyioChannelLayer(layer=Slow, options=options, publish_timeout=0.05)
        assert await layer.diagnose() == [
            Finding(
                "error",
                "memory:// did not answer within 0.05 s",
                "Check that the broker runs and that the address is right",
            )
        ]

    asyncio.run(main())


def test_a_layer_of_ones_own_may_say_nothing() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(layer=ScriptedLayer)
        assert await layer.diagnose() == [Finding("unknown", "scripted://fake does not say how it is set up")]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [InMemoryChannelLayer, AtNodes])
def test_queues_by_their_names_of_channels(kind: type[InMemoryChannelLayer]) -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(layer=kind, options={"broker": InMemoryBroker()})
        await layer.send("b", {"type": "x"})
        foreign = kind(broker=layer._settings.make_layers()[0].broker)  # type: ignore[attr-defined]
        await foreign.connect()
        await foreign.put("asgi:q:\x1b[2J", b"x", capacity=1, expiry=60.0)
        await layer.send("a", {"type": "x"})
        assert [(each.name, each.length) for each in await layer.queue_states()] == [("a", 1), ("b", 1)]

    asyncio.run(main())


def test_two_nodes_may_hold_one_queue_for_a_moment() -> None:
    async def main() -> None:
        one, other = layers(2)
        for layer in (one, other):
            await layer.new_channel()
        from django_anyio_channels.django.monitoring.inspection import _queues_of
        from django_anyio_channels.django.nodes.reports import QueueReport

        reports = await one.node_reports(details=True)
        for (report, _), length in zip(reports.by_node.values(), (2, 1), strict=True):
            report.queues = {"jobs": QueueReport(length)}
        assert [(each.name, each.length) for each in _queues_of(reports)] == [("jobs", 2)]

    asyncio.run(main())
