"""What a `Channel` says of itself: members, received events, and verbs that a layer may lack."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import Channel, InMemoryChannelLayer, ListenerClosed, NotSupported
from tests.support.scripted import TIME_LIMIT, ScriptedLayer

pytestmark = pytest.mark.anyio


class CuttableLayer(InMemoryChannelLayer):
    """Its connection can be cut, in the moment when the handler changes, too."""

    cut_now = False

    def set_event_handler(self, handler: object) -> None:
        if self.cut_now:
            self.cut_now = False
            assert self._inbox is not None
            self._inbox.close()
            raise ListenerClosed("the cable is out")
        super().set_event_handler(handler)  # type: ignore[arg-type]


async def test_members_of_the_groups_of_all_brokers_are_counted() -> None:
    async with Channel([InMemoryChannelLayer(), InMemoryChannelLayer()]) as channel:
        async with channel.subscribe("a", "b"), channel.subscribe("a"), channel.subscribe(pattern="c*"):
            assert dict(channel.inspection.members()) == {"a": 2, "b": 1}


async def test_events_are_counted_when_that_is_asked_for() -> None:
    async with Channel(layer := CuttableLayer()) as channel, channel.subscribe("a") as subscriber:

        async def publish() -> None:
            await channel.publish("a", 1)
            with anyio.fail_after(TIME_LIMIT):
                await subscriber.receive()

        await publish()
        assert channel.inspection.received == 0
        channel.inspection.count_received(True)
        await publish()
        assert channel.inspection.received == 1
        layer.cut_now = True
        channel.inspection.count_received(True)  # in effect with the next session
        with anyio.fail_after(TIME_LIMIT):
            while not channel.outages:
                await anyio.lowlevel.checkpoint()
        await publish()
        assert channel.inspection.received == 2
        channel.inspection.count_received(False)
        await publish()
        assert channel.inspection.received == 2


async def test_counting_can_begin_while_there_is_no_connection() -> None:
    layer = ScriptedLayer()
    channel = Channel(layer)
    async with channel:
        channel.inspection.count_received(True)  # before the first session
        await channel.connected()


async def test_verbs_that_a_layer_does_not_have() -> None:
    async with Channel(ScriptedLayer()) as channel:
        assert not channel.inspection.queues_are_at_nodes
        with pytest.raises(NotSupported, match="ScriptedLayer does not say what its queues hold"):
            await channel.inspection.queues("", 1)
        for call in (channel.inspection.histories(""), channel.inspection.remove_from_history("g", [])):
            with pytest.raises(NotSupported, match="ScriptedLayer cannot list dead letters"):
                await call
