"""What breaks in the field, with numbered messages flowing meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import paho.mqtt.client as paho
import pytest
from channels.exceptions import MessageTooLarge
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from django_anyio_channels import (
    AnyioChannelLayer,
    Backoff,
    Channel,
    DeliveryUnknown,
    Event,
    ListenerClosed,
    MQTTChannelLayer,
    PayloadTooLarge,
    PublishRefused,
)
from django_anyio_channels.brokers.mqtt.subscriptions import Subscription
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import USERNAME, Mosquitto
from tests.support.layers import TIME_LIMIT

from .conftest import Connect, on_uvloop_too

pytestmark = pytest.mark.anyio


async def read(layer: MQTTChannelLayer, count: int) -> list[bytes]:
    with anyio.fail_after(TIME_LIMIT):
        return [(await layer.next_published()).message for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition."""
    with anyio.fail_after(TIME_LIMIT):
        while not condition():
            await anyio.sleep(0.01)


def owners(layer: MQTTChannelLayer) -> dict[bytes, Any]:
    """The queues that a node owns."""
    assert layer._session is not None
    return layer._session.queues.requests.elections.owners


def cut(layer: MQTTChannelLayer) -> None:
    """Break the connection as the death of a process would: no DISCONNECT, nothing acknowledged any more."""
    assert layer._session is not None
    layer._session.live().fail("the connection was cut")


@asynccontextmanager
async def flow(broker: Mosquitto, qos: int = 1, **of_the_reader: Any) -> AsyncIterator[Flow]:
    """A writer and a reader, each with a connection of its own, and messages with growing numbers between them."""
    writer, reader = (
        Channel(MQTTChannelLayer(broker.url, qos=qos, probe_interval=1.0, **options), backoff=Backoff(0.02, 0.1))
        for options in ({}, of_the_reader)
    )
    async with writer, reader, anyio.create_task_group() as tasks:
        one = Flow(writer, reader)
        tasks.start_soon(one.read)
        tasks.start_soon(one.write)
        yield one
        tasks.cancel_scope.cancel()


class Flow:
    def __init__(self, writer: Channel, reader: Channel) -> None:
        self.writer = writer
        self.reader = reader
        self.reading = anyio.Event()
        self.accepted: list[int] = []
        self.received: list[int] = []

    async def write(self) -> None:
        await self.reading.wait()
        number = 0
        while True:
            number += 1
            try:
                await self.writer.publish("flow", number)
                self.accepted.append(number)
            except ListenerClosed:
                pass  # the test looks at what was accepted
            await anyio.sleep(0.001)

    async def read(self) -> None:
        async with self.reader.subscribe("flow", capacity=100_000) as subscriber:
            self.reading.set()
            async for event in subscriber:
                self.received.append(event.message)

    async def flows(self) -> None:
        """Wait until messages arrive that were written from now on."""
        number = self.accepted[-1] if self.accepted else 0
        await until(lambda: bool(self.received) and self.received[-1] > number + 20)

    def check(self) -> None:
        assert self.received == sorted(set(self.received)), "in order, and once"


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
async def test_kill_and_restart(qos: int, persistent: bool) -> None:
    broker = mosquitto.persistent() if persistent else mosquitto.mosquitto()
    with mosquitto.running(broker):
        async with flow(broker, qos) as numbers:
            for outages in (1, 2):
                await numbers.flows()
                await anyio.to_thread.run_sync(broker.server.restart)
                await numbers.flows()
                assert numbers.reader.outages == outages
            numbers.check()


async def test_a_frozen_broker_is_noticed_and_comes_back() -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        async with flow(broker) as numbers:
            await numbers.flows()
            with broker.server.frozen():
                await until(lambda: numbers.reader.outages > 0)
            await numbers.flows()
            numbers.check()


async def test_a_message_to_a_frozen_broker_raises_instead_of_hanging(connect: Connect) -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        with broker.server.frozen():
            with anyio.fail_after(TIME_LIMIT), pytest.raises(DeliveryUnknown, match="no answer for 1 s") as caught:
                await layer.publish("x", b"x")
            assert layer.address in str(caught.value)


@on_uvloop_too
async def test_a_frozen_broker_does_not_let_us_in() -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        layer = MQTTChannelLayer(broker.url, connect_timeout=0.3)
        with broker.server.frozen():
            with pytest.raises(ListenerClosed, match=r"did not answer within 0.3 s") as caught:
                await layer.connect()
            assert layer.address in str(caught.value)


@on_uvloop_too
async def test_connecting_anew_ends_an_attempt_that_still_waits() -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        layer = MQTTChannelLayer(broker.url, connect_timeout=TIME_LIMIT)
        ended = anyio.Event()

        async def first() -> None:
            with pytest.raises(ListenerClosed):
                await layer.connect()
            ended.set()

        with broker.server.frozen():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(ListenerClosed, match="this layer is not connected"):
                    await layer.publish("too early", b"x")
                tasks.start_soon(layer.connect)
                with anyio.fail_after(TIME_LIMIT):
                    await ended.wait()
                broker.server.thaw()
        await layer.subscribe("anew")
        await layer.publish("anew", b"x")
        assert await read(layer, 1) == [b"x"]
        await layer.disconnect()


@pytest.mark.parametrize("connected", [False, True])
async def test_of_two_attempts_at_once_the_later_wins(broker: Mosquitto, connected: bool) -> None:
    layer = MQTTChannelLayer(broker.url)
    if connected:
        await layer.connect()

    async def first() -> None:
        with pytest.raises(ListenerClosed):
            await layer.connect()

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            tasks.start_soon(layer.connect)
    assert (await layer.publish("nobody/is/here", b"x")).receivers == 0
    await layer.disconnect()


async def test_down_at_start() -> None:
    broker = mosquitto.mosquitto()
    async with flow(broker) as numbers:
        with pytest.raises(ListenerClosed, match=str(broker.port)):
            await MQTTChannelLayer(broker.url).connect()
        with mosquitto.running(broker):
            await numbers.flows()
            numbers.check()
            assert numbers.received[0] == 1


async def test_what_the_access_control_denies_costs_nobody_else_a_message() -> None:
    """Mosquitto 2.0 says that it denies a message, and then ends the connection."""
    broker = mosquitto.protected("topic readwrite flow")
    with mosquitto.running(broker):
        async with flow(broker) as numbers:
            denied = 0
            while denied < 5:
                await numbers.flows()
                try:
                    await numbers.writer.publish("forbidden", b"")
                except PublishRefused as error:
                    assert "forbidden: Not authorized" in str(error)
                    denied += 1
                except ListenerClosed:
                    pass  # the connection ended at that moment
            accepted = set(numbers.accepted)
            await numbers.flows()
            numbers.check()
            assert accepted <= set(numbers.received)
            assert numbers.reader.outages == 0


async def test_what_is_too_large_for_the_broker_ends_nothing() -> None:
    broker = mosquitto.mosquitto("max_packet_size 1000")
    with mosquitto.running(broker):
        async with flow(broker) as numbers:
            await numbers.flows()
            for number in range(10):
                with pytest.raises(PayloadTooLarge, match="takes at most 1000"):
                    await numbers.writer.publish("flow", f"{number}" * 1000)
            await numbers.flows()
            assert numbers.received == list(range(1, len(numbers.received) + 1))
            assert (numbers.writer.outages, numbers.reader.outages) == (0, 0)


async def test_a_django_caller_gets_an_error_for_what_is_too_large_for_the_broker() -> None:
    broker = mosquitto.mosquitto("max_packet_size 1000")
    with mosquitto.running(broker):
        layer = AnyioChannelLayer(url=broker.url)
        with anyio.fail_after(TIME_LIMIT):
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            large = {"type": "message", "text": "x" * 1000}
            for call in (layer.group_send("group", large), layer.send(channel, large), layer.send("normal", large)):
                with pytest.raises(MessageTooLarge, match=r"127\.0\.0\.1:\d+ takes at most 1000.*max_packet_size"):
                    await call
            for number in range(10):
                await layer.group_send("group", {"type": "message", "number": number})
            assert [(await layer.receive(channel))["number"] for _ in range(10)] == list(range(10))
            await layer.close()


async def test_a_wrong_password_fails_a_publish(protected_broker: Mosquitto) -> None:
    layer = MQTTChannelLayer(f"mqtt://{USERNAME}:geheim@127.0.0.1:{protected_broker.port}")
    async with Channel(layer, publish_timeout=1.0) as channel:
        with pytest.raises(ListenerClosed, match=r"(?i)not authori[sz]ed.*Check username and password") as caught:
            await channel.publish("x", "x")
    assert "geheim" not in str(caught.value)
    assert "Check that the broker runs" not in str(caught.value)


async def test_the_same_client_id_takes_the_session_over(broker: Mosquitto, connect: Connect) -> None:
    former = await connect(broker.url, client_id="twice")
    await former.subscribe("taken/over")
    later = await connect(broker.url, client_id="twice")
    with anyio.fail_after(TIME_LIMIT), pytest.raises(ListenerClosed, match=r"Session taken over|closed the connection"):
        await former.next_published()  # mosquitto 2.0 does not say why
    await later.subscribe("taken/over")
    await later.publish("taken/over", b"x")
    assert await read(later, 1) == [b"x"]


async def test_a_node_that_was_taken_over_reconnects(connect: Connect) -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        async with flow(broker, client_id="twice") as numbers:
            await numbers.flows()
            intruder = await connect(broker.url, client_id="twice")
            with anyio.fail_after(TIME_LIMIT), pytest.raises(ListenerClosed):
                await intruder.next_published()
            await numbers.flows()
            assert numbers.reader.outages == 1
            numbers.check()


# ---- sessions that outlive their connection ----------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
async def test_what_was_published_while_a_node_was_away_arrives_in_order(
    broker: Mosquitto, connect: Connect, qos: int
) -> None:
    session = {"client_id": f"away{qos}", "session_expiry": 60, "qos": qos}
    node, writer = await connect(broker.url, **session), await connect(broker.url, qos=qos)
    await node.subscribe("away")
    await node.subscribe_pattern("away/+")
    await node.disconnect()
    for number in range(300):
        await writer.publish("away/x" if number % 2 else "away", b"%d" % number)
    again = await connect(broker.url, **session)  # another process, which knows nothing of the former
    await again.subscribe_pattern("away/+")
    await again.subscribe("away")
    with anyio.fail_after(TIME_LIMIT):
        received = [await again.next_published() for _ in range(300)]
    for name, pattern, first in (("away", None, 0), ("away/x", "away/+", 1)):
        events = [event for event in received if event.group == name]
        assert events == [Event(name, b"%d" % number, pattern) for number in range(first, 300, 2)]
    await writer.publish("away", b"live")
    assert await read(again, 1) == [b"live"]


@pytest.mark.parametrize("killed", [False, True])
async def test_a_session_survives_the_restart_of_a_persistent_broker(connect: Connect, killed: bool) -> None:
    broker = mosquitto.persistent()
    with mosquitto.running(broker):
        session = {"client_id": "survivor", "session_expiry": 60}
        node, writer = await connect(broker.url, **session), await connect(broker.url)
        await node.subscribe("kept")
        await node.disconnect()
        for number in range(100):
            await writer.publish("kept", b"number %d" % number)
        if killed:
            # It forgets what it has not saved yet.
            saved = Path(broker.server.folder, "mosquitto.db")
            await until(lambda: saved.exists() and b"number 99" in saved.read_bytes())
            await anyio.to_thread.run_sync(broker.server.restart)
        else:
            await anyio.to_thread.run_sync(broker.server.shutdown)
            await anyio.to_thread.run_sync(broker.server.start)
        again = await connect(broker.url, **session)
        await again.subscribe("kept")
        assert await read(again, 100) == [b"number %d" % number for number in range(100)]


async def test_a_session_that_another_program_began_is_resumed(broker: Mosquitto, connect: Connect) -> None:
    """It subscribed without an identifier, so the messages that it missed have none."""
    loop, began = asyncio.get_running_loop(), anyio.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="begun", protocol=paho.MQTTv5)

    def on_subscribe(*rest: Any) -> None:
        loop.call_soon_threadsafe(began.set)

    client.on_subscribe = on_subscribe
    properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 60
    client.connect("127.0.0.1", broker.port, clean_start=False, properties=properties)
    client.subscribe("begun", 1)
    client.loop_start()
    with anyio.fail_after(TIME_LIMIT):
        await began.wait()
    client.disconnect()
    await anyio.to_thread.run_sync(client.loop_stop)
    writer = await connect(broker.url)
    await writer.publish("begun", b"missed")
    node = await connect(broker.url, client_id="begun", session_expiry=60)
    await node.subscribe("begun")
    await writer.publish("begun", b"live")
    assert await read(node, 2) == [b"missed", b"live"]


async def test_a_session_ends_when_it_has_expired(broker: Mosquitto, connect: Connect) -> None:
    session = {"client_id": "expiring", "session_expiry": 1}
    node, writer = await connect(broker.url, **session), await connect(broker.url)
    await node.subscribe("expired")
    await node.disconnect()
    with anyio.fail_after(TIME_LIMIT):
        while (await writer.publish("expired", b"too early")).receivers is None:  # it has somebody to be kept for
            await anyio.sleep(0.05)
        again = await connect(broker.url, **session)
        await again.subscribe("expired")
        await writer.publish("expired", b"new")
        assert await read(again, 1) == [b"new"]


@pytest.mark.parametrize("qos", [1, 2])
async def test_what_a_killed_subscriber_had_not_taken_comes_again(
    broker: Mosquitto, connect: Connect, qos: int
) -> None:
    session = {"client_id": f"killed{qos}", "session_expiry": 60, "qos": qos}
    node, writer = await connect(broker.url, **session), await connect(broker.url, qos=qos)
    await node.subscribe("again")
    for number in range(10):
        await writer.publish("again", b"%d" % number)
    assert await read(node, 5) == [b"%d" % number for number in range(5)]
    cut(node)  # all were handed over, and none is dealt with
    again = await connect(broker.url, **session)
    await again.subscribe("again")
    assert await read(again, 10) == [b"%d" % number for number in range(10)]


async def test_what_a_program_did_not_acknowledge_comes_again(broker: Mosquitto) -> None:
    layer = MQTTChannelLayer(broker.url, client_id="careful", session_expiry=60)
    async with Channel(layer, backoff=Backoff(0.02, 0.1)) as channel, channel.subscribe("work", ack="manual") as jobs:
        for number in range(4):
            await channel.publish("work", number)
        events = [await jobs.receive() for _ in range(4)]
        for event in events[:2]:
            await event.ack()
        await channel.publish("elsewhere", "the broker has read what was sent before this")
        cut(layer)
        with anyio.fail_after(TIME_LIMIT):
            assert [(await jobs.receive()).message for _ in range(2)] == [2, 3]
            with pytest.raises(ListenerClosed, match="the connection was cut"):
                await events[2].ack()


async def test_what_waited_for_a_killed_subscriber_comes_again(broker: Mosquitto) -> None:
    """Unless the program acknowledges, a message is acknowledged when it is taken out of the mailbox."""

    def layer() -> MQTTChannelLayer:
        return MQTTChannelLayer(broker.url, client_id="hasty", session_expiry=60)

    killed = layer()
    async with Channel(killed, backoff=Backoff(60, 60)) as channel, channel.subscribe("tasks") as tasks:
        for number in range(4):
            await channel.publish("tasks", number)
        assert [(await tasks.receive()).message for _ in range(2)] == [0, 1]
        await channel.publish("elsewhere", "the broker has read what was sent before this")
        cut(killed)
    async with Channel(layer()) as channel, channel.subscribe("tasks") as tasks:
        with anyio.fail_after(TIME_LIMIT):
            assert [(await tasks.receive()).message for _ in range(2)] == [2, 3]


async def test_a_resumed_session_does_not_wait_for_ever_for_subscribers(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("django_anyio_channels.brokers.mqtt.subscriptions.SESSION_BACKLOG_SECONDS", 0.2)
    session = {"client_id": "forgetful", "session_expiry": 60}
    node, writer = await connect(broker.url, **session), await connect(broker.url)
    await node.subscribe("unwanted")
    await node.subscribe("wanted")
    await node.disconnect()
    for number in range(100):
        await writer.publish("unwanted", b"%d" % number)
    await writer.publish("wanted", b"at last")
    again = await connect(broker.url, **session)
    await again.subscribe("wanted")
    assert await read(again, 1) == [b"at last"]
    await until(
        lambda: "of the previous session without a subscription within 0.2 s (the first: unwanted)" in caplog.text
    )


# ---- queues ------------------------------------------------------------------------------------------------------


@on_uvloop_too
@pytest.mark.parametrize("make", [mosquitto.mosquitto, mosquitto.persistent], ids=["forgets", "persistent"])
async def test_queues_survive_the_death_of_the_broker(connect: Connect, make: Callable[[], Mosquitto]) -> None:
    broker = make()
    with mosquitto.running(broker):
        owner, reader = await connect(broker.url), await connect(broker.url)
        for number in range(10):
            await owner.put("jobs", b"%d" % number, capacity=100, expiry=60)
        assert await reader.take("jobs") == b"0"
        await anyio.to_thread.run_sync(broker.server.restart)
        await reader.disconnect()
        await reader.connect()
        await owner.disconnect()
        await owner.connect()
        with anyio.fail_after(TIME_LIMIT):
            assert [await reader.take("jobs") for _ in range(9)] == [b"%d" % number for number in range(1, 10)]


async def test_a_long_queue_outlives_its_owner_at_a_broker_of_small_packets(connect: Connect) -> None:
    broker = mosquitto.mosquitto("max_packet_size 2000")
    with mosquitto.running(broker):
        owner, successor = await connect(broker.url), await connect(broker.url)
        sent = [b"%03d" % number * 100 for number in range(100)]
        for message in sent:
            await owner.put("long", message, capacity=100, expiry=60)
        with pytest.raises(PayloadTooLarge, match="takes at most 2000"):
            await owner.put("long", b"x" * 1900, capacity=1000, expiry=60)
        await owner.disconnect()
        assert b"long" in successor._session.queues.requests.elections.owners
        await successor.disconnect()  # the last one keeps it, and offers it in its next session
        await successor.connect()
        with anyio.fail_after(TIME_LIMIT):
            assert [await successor.take("long") for _ in sent] == sent


async def test_a_node_that_may_not_hand_off_its_queues_disconnects_without_an_error(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [f"topic readwrite %nodes//{each}/#" for each in ("queue", "owner", "node")]
    broker = mosquitto.protected(*rules, "topic readwrite %nodes//presence", "topic read %nodes//successors")
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        await layer.put("queue", b"kept", capacity=10, expiry=60)
        await layer.disconnect()
        assert "could not be handed off" in caplog.text
        assert "%nodes//successors" in caplog.text
        await layer.connect()
        with anyio.fail_after(TIME_LIMIT):
            assert await layer.take("queue") == b"kept"


async def test_garbage_on_the_topics_of_nodes_ends_no_session(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker retains the last message for each new subscriber."""
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker), anyio.fail_after(TIME_LIMIT):
        owner, other = await connect(broker.url), await connect(broker.url)
        await owner.put("jobs", b"1", capacity=10, expiry=60)
        for topic in (f"node/{owner._session.node}", "queue/jobs", "successors", "purge", "presence", "owner/later"):
            for payload in (b"", b"\xff" * 100, b"\x93\x01", b"lamp on"):
                connection = other._session.live()
                await connection.publish(b"%nodes//" + topic.encode(), payload, qos=1, retain=True, properties=b"\0")
        await owner.put("jobs", b"2", capacity=10, expiry=60)
        late = await connect(broker.url)
        assert [await late.take("jobs"), await late.take("jobs")] == [b"1", b"2"]
        await late.put("later", b"3", capacity=10, expiry=60)
        assert await owner.take("later") == b"3"
        assert (
            "Dropped a message on %nodes//queue/jobs that was not published by this version of this package"
            in caplog.text
        )


@asynccontextmanager
async def logged(broker: Mosquitto) -> AsyncIterator[None]:
    """A client that subscribes to everything, so that the broker never says that nobody gets a message."""
    logger = MQTTChannelLayer(broker.url)
    logger.set_scope("of no node")
    await logger.connect()
    await logger.subscribe_pattern("#")
    yield
    await logger.disconnect()


async def retained(broker: Mosquitto) -> list[str]:
    """The topics between nodes at which the broker retains a message."""
    client = MQTTChannelLayer(broker.url)
    client.set_scope("of no node")
    await client.connect()
    assert client._session is not None
    await client._session.subscribe(Subscription(b"%nodes/#", "nodes"))
    await client.subscribe("last")
    await client.publish("last", b"")
    topics = []
    while (event := await client.next_published()).group != "last":
        topics.append(event.group)
    await client.disconnect()
    return topics


async def test_a_client_that_subscribes_to_everything_disturbs_no_queue(broker: Mosquitto, connect: Connect) -> None:
    async with logged(broker):
        owner, dead, reader = [await connect(broker.url) for _ in range(3)]
        with anyio.fail_after(TIME_LIMIT):
            await owner.put("kept", b"1", capacity=10, expiry=60)
            assert await dead.take("kept") == b"1"
            waiting = asyncio.ensure_future(dead.take("kept"))
            await until(lambda: bool(owners(owner)[b"kept"].readers))
            cut(dead)
            with pytest.raises(ListenerClosed):
                await waiting
            await owner.put("kept", b"2", capacity=10, expiry=60)
            assert await reader.take("kept") == b"2"
            waiting = asyncio.ensure_future(reader.take("kept"))
            await until(lambda: bool(owners(owner)[b"kept"].readers))
            cut(owner)
            writer = await connect(broker.url)
            await writer.put("kept", b"3", capacity=10, expiry=60)
            assert await waiting == b"3"


async def test_what_the_last_node_leaves_outlasts_a_client_that_subscribes_to_everything(connect: Connect) -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker), anyio.fail_after(TIME_LIMIT):
        async with logged(broker):
            owner, other = await connect(broker.url), await connect(broker.url)
            await owner.put("kept", b"1", capacity=10, expiry=60)
            assert await retained(broker) == ["%nodes//owner/kept"]
            await owner.disconnect()
            await until(lambda: b"kept" in owners(other))
            await other.disconnect()
            assert await retained(broker) == []
            await other.connect()
            assert await other.take("kept") == b"1"


async def test_an_owner_that_does_not_answer_loses_its_queue(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose host lost its power; it finds the queue at its successor when it is back."""
    monkeypatch.setattr("django_anyio_channels.brokers.mqtt.queues.election._SILENCE_SECONDS", 0.1)
    async with logged(broker):
        owner, reader = await connect(broker.url, probe_interval=60.0), await connect(broker.url)
        with anyio.fail_after(TIME_LIMIT):
            await owner.put("silent", b"1", capacity=10, expiry=60)
            owner._session.connection._transport.pause_reading()
            await reader.put("silent", b"2", capacity=10, expiry=60)
            assert await reader.take("silent") == b"2"
            owner._session.connection._transport.resume_reading()
            while await reader.take("silent") != b"1":
                pass  # the owner got the other one, too
            await until(lambda: (b"silent" in owners(owner)) != (b"silent" in owners(reader)))


@on_uvloop_too
async def test_a_reader_outlives_the_owner_of_its_queue(broker: Mosquitto, connect: Connect) -> None:
    owner, reader, writer = [await connect(broker.url) for _ in range(3)]
    await owner.put("orphan", b"first", capacity=100, expiry=60)
    taken: list[bytes] = []

    async def take() -> None:
        for _ in range(2):
            taken.append(await reader.take("orphan"))
            first.set()

    first = anyio.Event()
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await first.wait()
            await anyio.wait_all_tasks_blocked()
            cut(owner)
            await writer.put("orphan", b"second", capacity=100, expiry=60)
    assert taken == [b"first", b"second"]


async def test_what_was_handed_to_a_dead_reader_goes_to_another(broker: Mosquitto, connect: Connect) -> None:
    owner, dead, reader = [await connect(broker.url) for _ in range(3)]
    await owner.put("grave", b"hello", capacity=100, expiry=60)
    assert await dead.take("grave") == b"hello"

    async def wait_for_death() -> None:
        with pytest.raises(ListenerClosed):
            await dead.take("grave")

    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_death)
            await anyio.wait_all_tasks_blocked()
            cut(dead)
        await owner.put("grave", b"kept", capacity=100, expiry=60)
        assert await reader.take("grave") == b"kept"


async def test_many_nodes_that_find_a_queue_at_once_agree_on_its_owner(broker: Mosquitto, connect: Connect) -> None:
    layers = [await connect(broker.url) for _ in range(6)]
    with anyio.fail_after(TIME_LIMIT):
        for round_ in range(10):
            queue = f"race{round_}"
            async with anyio.create_task_group() as tasks:
                for number, layer in enumerate(layers):
                    tasks.start_soon(partial(layer.put, queue, b"%d" % number, capacity=6, expiry=60))
            owners = [layer for layer in layers if queue.encode() in layer._session.queues.requests.elections.owners]
            assert len(owners) == 1
            assert sorted([await layers[0].take(queue) for _ in layers]) == [b"%d" % n for n in range(6)]


async def test_queues_are_handed_off_within_their_scope(connect: Connect) -> None:
    """Two projects at one broker, with queues of the same name."""
    broker = mosquitto.mosquitto()
    async with AsyncExitStack() as stack:
        stack.enter_context(mosquitto.running(broker))
        stack.enter_context(anyio.fail_after(TIME_LIMIT))

        async def node(prefix: str) -> Any:
            layer = MQTTChannelLayer(broker.url)
            layer.set_scope(prefix)
            await layer.connect()
            stack.push_async_callback(layer.disconnect)
            return layer

        first, other = await node("a:"), await node("b/+")
        await first.put("jobs", b"of a", capacity=10, expiry=60)
        await other.put("jobs", b"of b", capacity=10, expiry=60)
        await first.disconnect()  # no node of its scope is left
        assert [len(owner.store) for owner in other._session.queues.requests.elections.owners.values()] == [1]
        second, third = await node("a:"), await node("a:")
        assert await third.take("jobs") == b"of a"
        await second.put("jobs", b"of a, too", capacity=10, expiry=60)
        await third.purge("")  # not of the queues of b
        await second.put("jobs", b"of a, later", capacity=10, expiry=60)
        await second.disconnect()
        assert await third.take("jobs") == b"of a, later"
        assert await other.take("jobs") == b"of b"


async def test_the_last_node_that_leaves_keeps_its_queues_until_it_is_back(connect: Connect) -> None:
    broker = mosquitto.mosquitto()
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        await layer.bind("group", "queue", capacity=10, expiry=60, lifetime=60)
        await layer.put("queue", b"put", capacity=10, expiry=60)
        await layer.disconnect()
        await layer.connect()
        await layer.publish("group", b"published")
        with anyio.fail_after(TIME_LIMIT):
            assert [await layer.take("queue") for _ in range(2)] == [b"put", b"published"]
