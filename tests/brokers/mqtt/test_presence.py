"""`brokers.mqtt.presence`: retained messages that end, and what others retain beside them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from django_anyio_channels import ListenerClosed, MQTTChannelLayer, NotSupported
from django_anyio_channels.brokers.mqtt.packets import Publish
from django_anyio_channels.core.capabilities import PresenceRecord
from tests.support.brokers import mosquitto

pytestmark = pytest.mark.anyio


async def connected(url: str) -> MQTTChannelLayer:
    layer = MQTTChannelLayer(url)
    layer.set_scope("t:")
    await layer.connect()
    return layer


async def test_records_of_many_readers_and_what_is_not_one(broker: mosquitto.Mosquitto) -> None:
    one, two = await connected(broker.url), await connected(broker.url)
    names = ["t:p:room", "t:p:a/b+c"]
    await one.put_presence([PresenceRecord(name, f"node.{part}", b"x") for name in names for part in range(3)], 60.0)
    session = one._session
    assert session is not None
    topics = b"%nodes/t:/present/t:p:room/"
    copied = session.presence._transport
    await copied.publish(topics + b"forged", b"\xc1", retain=True)
    await copied.publish(topics + b"empty", msgspec.msgpack.encode(("t:p:room", "node.9", b"")), retain=True)
    await one.put_presence([PresenceRecord("t:p:other", "node.0", b"copied")], 60.0)
    readings = await asyncio.gather(*(two.read_presence(name) for name in names * 3))
    assert all(sorted(read) == ["node.0", "node.1", "node.2"] for read in readings)
    await asyncio.gather(one.purge("t:p:r"), one.purge("t:p:r"))
    assert await two.read_presence("t:p:room") == {}
    assert len(await two.read_presence("t:p:a/b+c")) == 3
    await one.purge("t:")
    assert await two.read_presence("t:p:a/b+c") == {}
    for forged in (b"forged", b"empty"):
        await copied.publish(topics + forged, b"", retain=True)
    for layer in (one, two):
        await layer.disconnect()


async def test_a_session_that_ends_while_it_reads(broker: mosquitto.Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = await connected(broker.url)
    session = layer._session
    assert session is not None
    subscribed = asyncio.Event()

    def receive(message: Publish, ack_handle: object) -> None:
        subscribed.set()

    monkeypatch.setattr(session, "message_received", receive)
    reading = asyncio.ensure_future(layer.read_presence("t:p:room"))
    await asyncio.wait_for(subscribed.wait(), 10)
    assert session.presence._pending
    await layer.disconnect()
    with pytest.raises(ListenerClosed):
        await asyncio.wait_for(reading, 10)


async def test_a_broker_that_retains_nothing() -> None:
    made = mosquitto.mosquitto("retain_available false")
    with mosquitto.running(made):
        layer = MQTTChannelLayer(made.url)
        await layer.connect()
        with pytest.raises(NotSupported, match="presence needs a broker that has retained messages"):
            await layer.read_presence("room")
        await layer.disconnect()
