"""`hub.encryption`: what brokers carry is encrypted for its group or queue, and decrypted once for all readers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import time

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import BaseChannelLayer, Channel, DecodeError, Event, InMemoryBroker, InMemoryChannelLayer
from django_anyio_channels.core.encryption import Encryption
from django_anyio_channels.core.layer import Reencryption
from django_anyio_channels.core.serializers import MARKER, MessagePackSerializer
from django_anyio_channels.hub.session import Backoff
from django_anyio_channels.hub.subscriber import Timestamped
from django_anyio_channels.hub.subscriptions import Sink
from tests.support.acknowledging import AcknowledgingLayer
from tests.support.scripted import TIME_LIMIT, ScriptedLayer

pytestmark = pytest.mark.anyio

ENCRYPTION = Encryption(["secret"])
encode = MessagePackSerializer().encode


@asynccontextmanager
async def hub(layer: BaseChannelLayer) -> AsyncIterator[Channel]:
    """An open Channel that encrypts; the body has `TIME_LIMIT` seconds."""
    with anyio.fail_after(TIME_LIMIT):
        async with Channel(layer, encryption=ENCRYPTION, backoff=Backoff(first=0.0, longest=0.0)) as channel:
            yield channel


@contextmanager
def ago(seconds: float) -> Iterator[None]:
    """What is encrypted in the body is so old."""
    now = time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django_anyio_channels.core.encryption.time", lambda: now - seconds)
        yield


def for_group(message: object, group: str = "room") -> bytes:
    return ENCRYPTION.encrypt(encode(message), "group", group, lifetime=60.0)


def for_queue(message: object, queue: str = "jobs") -> bytes:
    return ENCRYPTION.encrypt(encode(message), "queue", queue, lifetime=60.0)


async def test_each_event_is_decrypted_once_for_all_its_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    decrypted: list[bytes] = []
    decrypt = Encryption.decrypt_with_time

    def count(self: Encryption, token: bytes, *args: str, late: float) -> tuple[bytes, float]:
        decrypted.append(token)
        return decrypt(self, token, *args, late=late)  # type: ignore[arg-type]

    monkeypatch.setattr(Encryption, "decrypt_with_time", count)
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("room") as one, channel.subscribe("room") as two:
        await channel.publish("room", "hello")
        messages = [(await each.receive()).message for each in (one, two)]
    assert messages == ["hello", "hello"]
    [(_, token)] = layer.published
    assert decrypted == [token]
    assert token != encode("hello")


async def test_what_was_encrypted_for_another_group_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe("room") as subscriber:
        await layer.publish("room", for_group("copied", "lobby"))
        await layer.publish("room", for_group("genuine"))
        assert (await subscriber.receive()).message == "genuine"
        assert channel.stats.undecodable == 1
    assert "Dropped a message for room: it was encrypted for group lobby, and copied to group room" in caplog.text


async def test_an_empty_event_stays_empty() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel:
        events: list[Event[bytes]] = []

        class Sink:
            def put(self, entry: tuple[float, Event[bytes]]) -> None:
                events.append(entry[1])

            def close(self) -> None:
                pass

        await channel.add_sink("room", Sink())
        await layer.publish("room", b"")
        while not events:
            await anyio.lowlevel.checkpoint()
        assert events == [Event("room", b"")]


async def test_an_event_keeps_all_but_its_message() -> None:
    layer = ScriptedLayer()
    async with hub(layer) as channel, channel.subscribe(pattern="roo*") as subscriber:
        layer.play(Event("room", for_group("hello"), "roo*", None, "1-0", 2))
        event = await subscriber.receive()
        assert (event, event.position, event.deliveries) == (Event("room", "hello", "roo*"), "1-0", 2)


async def test_the_history_is_decrypted() -> None:
    class LayerWithHistory(ScriptedLayer):
        async def history(self, group: str, *, since: str | None, limit: int | None) -> list[Event[bytes]]:
            return [
                Event(group, payload, position="1") for payload in (for_group("copied", "lobby"), for_group("kept"))
            ]

    async with hub(LayerWithHistory()) as channel:
        assert await channel.history("room") == [Event("room", "kept")]
        assert channel.stats.undecodable == 1


async def test_a_message_lives_as_long_as_the_history_keeps_it() -> None:
    class LayerWithHistory(ScriptedLayer):
        retention = 3600.0

    layer = LayerWithHistory()
    async with hub(layer) as channel, channel.subscribe("room") as subscriber:
        with ago(3600):
            await channel.publish("room", "old")
            await channel.publish_payload("room", encode("command"), lifetime=10.0)
        await channel.publish("room", "new")
        assert [(await subscriber.receive()).message for _ in range(2)] == ["old", "new"]
        assert channel.stats.undecodable == 1


# ---- queues --------------------------------------------------------------------------------------------------------


async def test_a_queue_gets_what_was_encrypted_for_it() -> None:
    broker = InMemoryBroker()
    async with hub(InMemoryChannelLayer(broker=broker)) as channel:
        for payload in (for_queue("copied", "mail"), for_group("copied", "jobs"), encode("plain")):
            broker.put("jobs", payload, 100, 60.0)
        await channel.queues.put("jobs", encode("genuine"), capacity=100, expiry=60.0)
        assert await channel.queues.take("jobs") == encode("genuine")
        assert channel.stats.undecodable == 3


async def test_a_bound_queue_gets_its_own_copy() -> None:
    async with hub(InMemoryChannelLayer(broker=InMemoryBroker())) as channel:
        await channel.queues.bind("room", "jobs", capacity=100, expiry=60.0, lifetime=60.0)
        await channel.publish("room", "hello")
        assert await channel.queues.take("jobs") == encode("hello")


async def test_a_layer_that_puts_into_bound_queues_itself_is_given_the_function() -> None:
    given: list[Reencryption] = []

    class PuttingLayer(ScriptedLayer):
        def set_reencryption(self, reencrypt: Reencryption) -> None:
            given.append(reencrypt)

    layers = [PuttingLayer(), PuttingLayer()]
    Channel(layers, encryption=ENCRYPTION)
    assert len(given) == 2
    token = ENCRYPTION.encrypt(b"x", "group", "lobby", lifetime=60.0)
    put = given[0](token, "lobby", "jobs", 60.0)
    assert put is not None
    assert ENCRYPTION.decrypt(put, "queue", "jobs") == b"x"
    with pytest.raises(DecodeError, match="copied to group admins"):
        given[0](token, "admins", "jobs", 60.0)
    Channel(layers)
    assert len(given) == 2


async def test_a_layer_that_puts_into_bound_queues_itself_asks_about_marked_messages() -> None:
    given: list[Reencryption] = []

    class PuttingLayer(ScriptedLayer):
        def set_reencryption(self, reencrypt: Reencryption) -> None:
            given.append(reencrypt)

    class Reader:
        def fan_out(self, entry: Timestamped, sinks: Iterable[Sink]) -> tuple[Timestamped, Iterable[Sink]]:
            return entry, sinks

        def for_queue(self, payload: bytes, queue: str) -> bytes | None:
            return payload[1:] if queue == "jobs" else None

        def of_history(self, events: list[Event[bytes]]) -> list[Event[bytes]]:
            return events

    for encryption in (None, ENCRYPTION):
        Channel(PuttingLayer(), encryption=encryption, marked=Reader())
    plain, encrypted = given
    assert [plain(message, "lobby", "jobs", 60.0) for message in (b"x", MARKER + b"x")] == [b"x", b"x"]
    assert plain(MARKER, "lobby", "other", 60.0) is None
    token = ENCRYPTION.encrypt(MARKER + b"x", "group", "lobby", lifetime=60.0)
    put = encrypted(token, "lobby", "jobs", 60.0)
    assert put is not None
    assert ENCRYPTION.decrypt(put, "queue", "jobs") == b"x"
    assert encrypted(token, "lobby", "other", 60.0) is None


# ---- acknowledgement -----------------------------------------------------------------------------------------------


async def test_a_job_that_cannot_be_decrypted_is_acknowledged() -> None:
    layer = AcknowledgingLayer()
    copied = layer.deliver("jobs", for_queue("copied", "mail"), deliveries=9)
    layer.deliver("jobs", for_queue("job"))
    async with hub(layer) as channel:
        event = await channel.queues.receive_job("jobs", "dead")
    assert event.message == encode("job")
    assert copied.acknowledged
    assert layer.published == []


async def test_a_job_may_be_delivered_again_after_its_lifetime() -> None:
    layer = AcknowledgingLayer()
    with ago(3600):
        job, recorded = for_queue("job"), for_queue("recorded")
    layer.deliver("jobs", recorded)
    layer.deliver("jobs", job, deliveries=2)
    async with hub(layer) as channel:
        assert (await channel.queues.receive_job("jobs", "dead")).message == encode("job")
        assert channel.stats.undecodable == 1
    with ago(3 * 86400):
        layer.deliver("jobs", for_queue("recorded"), deliveries=2)
    layer.deliver("jobs", for_queue("job"))
    async with hub(layer) as channel:
        assert (await channel.queues.receive_job("jobs", "dead")).message == encode("job")
        assert channel.stats.undecodable == 1


async def test_a_dead_letter_is_encrypted_for_its_group() -> None:
    layer = AcknowledgingLayer()
    layer.deliver("jobs", for_queue("poison"), deliveries=4)
    layer.deliver("jobs", for_queue("job"))
    layer.deliver("room", for_group("poison"), deliveries=4)
    layer.deliver("room", for_group("event"))
    async with hub(layer) as channel:
        assert (await channel.queues.receive_job("jobs", "dead")).message == encode("job")
        async with channel.subscribe("room", consumer_group="workers") as subscriber:
            assert (await subscriber.receive()).message == "event"
    letters = [(group, ENCRYPTION.decrypt(token, "group", group)) for group, token in layer.published]
    assert letters == [("dead", encode("poison")), ("room.workers.dead", encode("poison"))]
