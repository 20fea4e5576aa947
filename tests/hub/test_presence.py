"""`hub.presence`: records over outages and several brokers, encrypted for their place."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from django_anyio_channels import (
    Channel,
    InMemoryBroker,
    InMemoryChannelLayer,
    ListenerClosed,
    NotSupported,
)
from django_anyio_channels.core.capabilities import PresenceRecord
from django_anyio_channels.core.encryption import Encryption
from tests.support.scripted import TIME_LIMIT, ScriptedLayer

from .helpers import hub

pytestmark = pytest.mark.anyio

RECORD = PresenceRecord("room", "node.0", b"members")


async def test_each_name_is_at_the_broker_of_its_group() -> None:
    brokers = [InMemoryBroker(), InMemoryBroker()]
    names = [f"room {number}" for number in range(20)]
    with anyio.fail_after(TIME_LIMIT):
        async with Channel([InMemoryChannelLayer(broker=broker) for broker in brokers]) as channel:
            await channel.presence.put([PresenceRecord(name, "node", name.encode()) for name in names], 60.0)
            for name in names:
                assert await channel.presence.read(name) == {"node": name.encode()}
            shares = [sum(bool(broker.presence.read(name)) for name in names) for broker in brokers]
            assert sum(shares) == 20
            assert all(shares)
            await channel.presence.put([PresenceRecord(name, "node", b"") for name in names], 60.0)
            assert not any(broker.presence.read(name) for broker in brokers for name in names)


async def test_records_are_encrypted_for_their_place_and_their_time() -> None:
    broker = InMemoryBroker()
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(InMemoryChannelLayer(broker=broker), encryption=Encryption(["secret"])) as channel:
            await channel.presence.put([RECORD, PresenceRecord("room", "removed", b"")], 60.0)
            assert await channel.presence.read("room") == {"node.0": b"members"}
            stored = broker.presence.read("room")["node.0"]
            assert b"members" not in stored
            copies = [PresenceRecord("room", "node.1", stored), PresenceRecord("other", "node.0", stored)]
            broker.presence.put([*copies, PresenceRecord("room", "node.2", b"forged")], 60.0)
            assert await channel.presence.read("room") == {"node.0": b"members"}
            assert await channel.presence.read("other") == {}
            assert channel.stats.undecodable == 3


class FallingLayer(InMemoryChannelLayer):
    """Its connection breaks at the first call about presence."""

    has_fallen = False

    async def put_presence(self, records: Sequence[PresenceRecord], ttl: float) -> None:
        if not self.has_fallen:
            self.has_fallen = True
            raise ListenerClosed("it broke")
        await super().put_presence(records, ttl)


async def test_an_outage_delays_what_is_put() -> None:
    async with hub(FallingLayer()) as channel:
        await channel.presence.put([RECORD], 60.0)
        assert await channel.presence.read("room") == {"node.0": b"members"}
        assert channel.outages == 1


async def test_a_layer_without_presence_says_so() -> None:
    async with hub(ScriptedLayer()) as channel:
        with pytest.raises(NotSupported, match="ScriptedLayer keeps no presence"):
            channel.presence.require_supported()
        with pytest.raises(NotSupported, match="ScriptedLayer keeps no presence"):
            await channel.presence.read("room")
