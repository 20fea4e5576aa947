"""The verbs of the layer against a real mosquitto, beyond what the contract suite asks of every broker."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from django_anyio_channels import (
    Event,
    ListenerClosed,
    NotSupported,
    PayloadTooLarge,
    PublishRefused,
    SubscriptionRefused,
)
from django_anyio_channels.brokers.mqtt.layer import MQTTChannelLayer, Properties, Will
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import USERNAME, Mosquitto
from tests.support.layers import TIME_LIMIT

from .conftest import Connect, on_uvloop_too
from .translating import translating

pytestmark = pytest.mark.anyio


async def read(layer: MQTTChannelLayer, count: int) -> list[Event[bytes]]:
    with anyio.fail_after(TIME_LIMIT):
        return [await layer.next_published() for _ in range(count)]


@pytest.mark.parametrize("sent", [0, 1, 2])
@pytest.mark.parametrize("subscribed", [0, 1, 2])
async def test_every_quality_of_service(broker: Mosquitto, connect: Connect, sent: int, subscribed: int) -> None:
    reader, writer = await connect(broker.url, qos=subscribed), await connect(broker.url, qos=sent)
    group = f"qos/{sent}/{subscribed}"
    await reader.subscribe(group)
    for number in range(200):
        await writer.publish(group, b"%d" % number)
    assert [event.message for event in await read(reader, 200)] == [b"%d" % number for number in range(200)]


@on_uvloop_too
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_groups_and_patterns(broker: Mosquitto, connect: Connect, qos: int) -> None:
    layer = await connect(broker.url, qos=qos)
    group, pattern = f"group/{qos}", f"pattern/{qos}/+"
    await layer.subscribe(group)
    await layer.subscribe_pattern(pattern)
    await layer.publish(group, b"1")
    await layer.publish(f"pattern/{qos}/x", b"2")
    assert await read(layer, 2) == [Event(group, b"1"), Event(f"pattern/{qos}/x", b"2", pattern)]
    await layer.unsubscribe(group)


@asynccontextmanager
async def scripted_broker(connack: bytes) -> AsyncIterator[str]:
    """Serves one answer to everybody who connects. Returns its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, size = await reader.readexactly(2)
        assert (await reader.readexactly(size))[6] == 5, "the version that we ask for"
        writer.write(connack)
        await reader.read()  # until the client closes
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("connack", [b"\x20\x02\x00\x01", b"\x20\x02\x00\x00", b"\x20\x03\x00\x84\x00"])
async def test_a_broker_that_speaks_only_mqtt_311_is_named(connack: bytes, connect: Connect) -> None:
    """It refuses our version as MQTT 3.1.1 does, or overlooks it, or refuses it as MQTT 5 does."""
    async with scripted_broker(connack) as url:
        with pytest.raises(
            ListenerClosed, match=r"speaks only MQTT 3\.1\.1; this layer needs MQTT 5: enable it"
        ) as caught:
            await connect(url)
    assert url in str(caught.value)
    assert "password" not in str(caught.value)


async def test_queues_need_shared_subscriptions(connect: Connect) -> None:
    async with scripted_broker(b"\x20\x05\x00\x00\x02\x2a\x00") as url:
        layer = await connect(url, probe_interval=60)
        with pytest.raises(NotSupported, match=r"queues \(normal channels\) need .* shared subscriptions") as caught:
            await layer.take("queue")
        assert layer.address in str(caught.value)
        await layer.disconnect()


async def test_queues_need_retained_messages(connect: Connect) -> None:
    broker = mosquitto.mosquitto("retain_available false")
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        with pytest.raises(NotSupported, match=r"queues .* need .* retained messages.*mosquitto: retain_available"):
            await layer.put("queue", b"x", capacity=1, expiry=60)
        await layer.subscribe("group")
        await layer.publish("group", b"groups go on")
        assert await read(layer, 1) == [Event("group", b"groups go on")]


async def test_a_broker_that_translates_dots_loses_no_message(
    broker: Mosquitto, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with translating(broker.port) as url, AsyncExitStack() as stack:
        layer = MQTTChannelLayer(url)
        await layer.connect()
        stack.push_async_callback(layer.disconnect)
        await layer.subscribe("room.1")
        await layer.subscribe_pattern("level.a/+")
        for group in ("room.1", "room.1", "level.a/b"):
            await layer.publish(group, b"x")
        events = [(event.group, event.subscription) for event in await read(layer, 3)]
        assert events == [("room.1", None), ("room.1", None), ("level/a/b", "level.a/+")]
        assert (
            caplog.text.count("translates dots in topics into slashes, as RabbitMQ does (the first topic: room.1)") == 1
        )
        with anyio.fail_after(TIME_LIMIT):
            await layer.put("jobs.1", b"job", capacity=10, expiry=60)
            assert await layer.take("jobs.1") == b"job"


async def test_unsubscribing_while_subscribing_leaves_no_subscription(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(layer.subscribe, "short")
        tasks.start_soon(layer.unsubscribe, "short")
    assert (await layer.publish("short", b"x")).receivers == 0
    await layer.subscribe("short")
    await layer.publish("short", b"again")
    assert await read(layer, 1) == [Event("short", b"again")]


async def test_groups_whose_checksums_are_the_same_are_distinguished(
    broker: Mosquitto, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = await connect(broker.url)
    monkeypatch.setattr("django_anyio_channels.brokers.mqtt.subscriptions.crc32", lambda data: 7)
    for name in ("same/1", "same/2"):
        await layer.subscribe(name)
    for name in ("same/2", "same/1"):
        await layer.publish(name, name.encode())
        assert await read(layer, 1) == [Event(name, name.encode())]


@on_uvloop_too
async def test_one_task_and_many_tasks_keep_their_order(broker: Mosquitto, connect: Connect) -> None:
    reader, writer = await connect(broker.url), await connect(broker.url)
    await reader.subscribe("order")

    async def write(name: int) -> None:
        for number in range(50):
            await writer.publish("order", b"%d %d" % (name, number))

    async with anyio.create_task_group() as tasks:
        for name in range(20):
            tasks.start_soon(write, name)
    received = [tuple(map(int, event.message.split())) for event in await read(reader, 1000)]
    for name in range(20):
        assert [number for sender, number in received if sender == name] == list(range(50))


BURST = [b"%d" % number for number in range(3000)]


async def test_names_that_are_too_long_use_up_nothing(broker: Mosquitto, connect: Connect) -> None:
    """Between nodes a queue's topic is longer than its name."""
    layer = await connect(broker.url)
    outgoing = layer._session.connection._outgoing
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: layer.publish("x" * 65_536, b"x"),
        lambda: layer.subscribe("x" * 65_536),
        lambda: layer.put("x" * 65_535, b"x", capacity=1, expiry=60),
        lambda: layer._session.publish(b"x" * 65_536, b"x"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="65535"):
            await call()
    with anyio.fail_after(TIME_LIMIT):
        while outgoing._replies:  # what the layer itself says meanwhile
            await anyio.sleep(0.01)


async def test_a_burst_respects_the_brokers_receive_maximum(connect: Connect) -> None:
    """Thousands of calls at once, to a broker that allows ten at a time and would end a connection that sends more."""
    broker = mosquitto.mosquitto("max_inflight_messages 10")
    with mosquitto.running(broker):
        reader, writer = await connect(broker.url), await connect(broker.url)
        await reader.subscribe("burst")
        async with anyio.create_task_group() as tasks:
            for message in BURST:
                tasks.start_soon(writer.publish, "burst", message)
            assert [event.message for event in await read(reader, len(BURST))] == BURST


async def test_a_burst_comes_no_faster_than_we_acknowledge(broker: Mosquitto, connect: Connect) -> None:
    node = await connect(broker.url, client_id="slow", session_expiry=60, receive_maximum=10)
    writer = await connect(broker.url)
    await node.subscribe("patience")
    async with anyio.create_task_group() as tasks:
        for message in BURST:
            tasks.start_soon(writer.publish, "patience", message)
    await node.subscribe("the broker has sent us all that it may")
    assert len(node._session.live()._incoming._unacknowledged) == 10
    for message in BURST:
        (event,) = await read(node, 1)
        assert event.message == message
        event.ack()


async def test_publishers_cancelled_in_a_burst_take_no_place_with_them(connect: Connect) -> None:
    broker = mosquitto.mosquitto("max_inflight_messages 2")
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        for steps in range(6):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(layer.publish, "cancelled", b"x")
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        with anyio.fail_after(TIME_LIMIT):
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(layer.publish, "after", b"x")


async def test_publish_says_when_nobody_listens(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    assert (await layer.publish("nobody/at/all", b"x")).receivers == 0
    await layer.subscribe("nobody/at/all")
    assert (await layer.publish("nobody/at/all", b"x")).receivers is None


async def test_patterns_are_topic_filters(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    await layer.subscribe_pattern("house/+/temperature")
    await layer.subscribe_pattern("house/#")
    await layer.subscribe("house/kitchen/temperature")
    await layer.publish("house/kitchen/temperature", b"21")
    assert {event.subscription for event in await read(layer, 3)} == {"house/+/temperature", "house/#", None}
    await layer.unsubscribe_pattern("house/#")
    await layer.publish("house/cellar/light", b"off")
    await layer.publish("house/cellar/temperature", b"9")
    assert await read(layer, 1) == [Event("house/cellar/temperature", b"9", "house/+/temperature")]


async def test_a_name_with_wildcards_is_no_pattern(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    names = ["a/+", "#", "$share/x/y", "$SYS/x", "", "50%", "a\0b"]
    for name in names:
        await layer.subscribe(name)
    await layer.publish("a/b", b"not wanted")
    for name in names:
        await layer.publish(name, b"wanted")
        assert await read(layer, 1) == [Event(name, b"wanted")]


async def test_the_brokers_own_topics_can_be_read(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    await layer.subscribe_pattern("$SYS/broker/version")
    (event,) = await read(layer, 1)
    assert (event.group, event.subscription) == ("$SYS/broker/version", "$SYS/broker/version")
    assert event.message.startswith(b"mosquitto version")


async def test_a_retained_message_greets_later_subscribers(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    await layer.publish("retained", b"state", retain=True)
    later = await connect(broker.url)
    await later.subscribe("retained")
    assert await read(later, 1) == [Event("retained", b"state")]
    await layer.publish("retained", b"", retain=True)


async def test_no_local_spares_a_layer_its_own_messages(broker: Mosquitto, connect: Connect) -> None:
    layer, other = await connect(broker.url, no_local=True), await connect(broker.url)
    await layer.subscribe("local")
    await layer.publish("local", b"mine")
    await other.publish("local", b"another's")
    assert await read(layer, 1) == [Event("local", b"another's")]


async def test_properties_are_published(broker: Mosquitto, connect: Connect) -> None:
    received: queue.Queue[Any] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _, __, message: received.put((message.payload, message.properties))
    client.on_subscribe = lambda *rest: received.put("subscribed")
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    client.subscribe("properties", 1)
    layer = await connect(broker.url)
    properties = Properties(message_expiry_interval=60, content_type="text/plain", user_properties=[("key", "value")])
    assert await anyio.to_thread.run_sync(partial(received.get, timeout=TIME_LIMIT)) == "subscribed"
    await layer.publish("properties", b"x", properties=properties)
    payload, came = await anyio.to_thread.run_sync(partial(received.get, timeout=TIME_LIMIT))
    client.disconnect()
    client.loop_stop()
    assert (payload, came.ContentType, came.UserProperty) == (b"x", "text/plain", [("key", "value")])
    assert came.MessageExpiryInterval <= 60


async def test_what_other_clients_publish_with_properties_arrives(broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(broker.url)
    properties = Properties(user_properties=[("key", "value")])
    await layer.subscribe("strange")
    await layer.publish("strange", b"x", properties=properties)
    assert await read(layer, 1) == [Event("strange", b"x")]


async def test_the_will_is_published_unless_the_node_disconnects(broker: Mosquitto, connect: Connect) -> None:
    reader = await connect(broker.url)
    await reader.subscribe_pattern("will/+")
    graceful = await connect(broker.url, will=Will("will/graceful", b"gone"))
    dead = await connect(broker.url, will=Will("will/dead", b"gone", qos=2))
    await graceful.disconnect()
    dead._session.live().fail("the connection was cut")
    assert await read(reader, 1) == [Event("will/dead", b"gone", "will/+")]


# ---- who may do what ---------------------------------------------------------------------------------------------


async def test_the_right_password_is_let_in(protected_broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(protected_broker.url)
    await layer.subscribe("allowed/x")
    await layer.publish("allowed/x", b"in")
    assert await read(layer, 1) == [Event("allowed/x", b"in")]


async def test_a_wrong_password_is_named_without_showing_it(protected_broker: Mosquitto) -> None:
    url = f"mqtt://{USERNAME}@127.0.0.1:{protected_broker.port}"
    layer = MQTTChannelLayer(url, password="geheim")
    with pytest.raises(ListenerClosed, match=r"(?i)not authori[sz]ed.*Check username and password") as caught:
        await layer.connect()
    assert layer.address in str(caught.value)
    assert "geheim" not in str(caught.value)


async def test_a_subscription_that_the_broker_refuses_raises(connect: Connect) -> None:
    broker = mosquitto.strict("forbidden/#")
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        with pytest.raises(SubscriptionRefused, match=r"to forbidden/x: Not authorized.*to read") as caught:
            await layer.subscribe("forbidden/x")
        assert layer.address in str(caught.value)
        with pytest.raises(SubscriptionRefused, match=r"to forbidden/\+: Not authorized"):
            await layer.subscribe_pattern("forbidden/+")
        await layer.subscribe("allowed")
        await layer.publish("allowed", b"still connected")
        assert await read(layer, 1) == [Event("allowed", b"still connected")]


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_message_that_the_broker_refuses_raises(
    protected_broker: Mosquitto, connect: Connect, qos: int
) -> None:
    layer = await connect(protected_broker.url, qos=qos)
    with pytest.raises(PublishRefused, match=f"forbidden: Not authorized.*user '{USERNAME}' to write") as caught:
        await layer.publish("forbidden", b"x")
    assert layer.address in str(caught.value)


def test_a_message_may_be_as_old_as_the_session() -> None:
    assert MQTTChannelLayer(host="x", client_id="node", session_expiry=600).retention == 600
    assert MQTTChannelLayer(host="x").retention == 0


# ---- encryption --------------------------------------------------------------------------------------------------


@on_uvloop_too
async def test_tls(encrypted_broker: Mosquitto, connect: Connect) -> None:
    layer = await connect(encrypted_broker.url)
    await layer.subscribe("secret")
    await layer.publish("secret", b"x" * 1_000_000)
    assert await read(layer, 1) == [Event("secret", b"x" * 1_000_000)]


async def test_a_certificate_that_nobody_vouches_for_is_refused(encrypted_broker: Mosquitto) -> None:
    layer = MQTTChannelLayer(host="127.0.0.1", port=encrypted_broker.port, tls=True)
    with pytest.raises(
        ListenerClosed, match="certificate verify failed.*Set ca_file to the certificate of the authority"
    ) as caught:
        await layer.connect()
    assert layer.address in str(caught.value)


@on_uvloop_too
async def test_a_plain_port_does_not_take_tls(broker: Mosquitto) -> None:
    layer = MQTTChannelLayer(f"mqtts://127.0.0.1:{broker.port}")
    with pytest.raises(ListenerClosed, match=r"may not use TLS on this port \(use mqtt://\)"):
        await layer.connect()


async def test_what_speaks_something_else_is_named() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ListenerClosed, match=r"wrong version number.*use mqtt://"):
            await MQTTChannelLayer(f"mqtts://{host}").connect()
        with pytest.raises(
            ListenerClosed, match=r"before it answered. .*\(use mqtts://\).* not support MQTT 5 .*max_connections"
        ):
            await MQTTChannelLayer(f"mqtt://{host}").connect()


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        (0x85, "Client identifier not valid .*Use another client_id"),
        (0x87, "Not authorized .*what the access control allows anonymous users, also for the will"),
        (0x97, "Quota exceeded .*raise its limits"),
        (0x80, "Unspecified error .*The broker's log says more"),
    ],
)
async def test_a_refusal_says_what_to_do(reason: int, cure: str) -> None:
    async with scripted_broker(bytes((0x20, 3, 0, reason, 0))) as url:
        with pytest.raises(ListenerClosed, match=cure):
            await MQTTChannelLayer(url).connect()


async def test_a_broker_that_wants_our_certificate(connect: Connect) -> None:
    broker = mosquitto.encrypted("require_certificate true")
    assert broker.ca_file is not None
    folder = Path(broker.ca_file).parent
    with mosquitto.running(broker):
        layer = await connect(broker.url, cert_file=f"{folder}/server.crt", key_file=f"{folder}/server.key")
        assert (await layer.publish("nobody/is/here", b"x")).receivers == 0
        with anyio.fail_after(TIME_LIMIT), pytest.raises(ListenerClosed) as caught:
            await MQTTChannelLayer(broker.url).connect()
        assert layer.address in str(caught.value)


async def test_an_encrypted_port_does_not_take_plain_text(encrypted_broker: Mosquitto) -> None:
    layer = MQTTChannelLayer(host="127.0.0.1", port=encrypted_broker.port, connect_timeout=2)
    with pytest.raises(ListenerClosed):
        await layer.connect()


# ---- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_packet_above_the_brokers_maximum_is_refused_before_it_is_sent(connect: Connect, qos: int) -> None:
    broker = mosquitto.mosquitto("max_packet_size 1000")
    with mosquitto.running(broker):
        layer = await connect(broker.url, qos=qos)
        await layer.subscribe("size")
        with pytest.raises(PayloadTooLarge, match=r"The packet has .* takes at most 1000.*max_packet_size") as caught:
            await layer.publish("size", b"x" * 1000)
        assert layer.address in str(caught.value)
        await layer.publish("size", b"x" * 900)
        assert [len(event.message) for event in await read(layer, 1)] == [900]


async def test_a_message_above_the_brokers_message_limit_is_refused(connect: Connect) -> None:
    broker = mosquitto.mosquitto("message_size_limit 1000")
    with mosquitto.running(broker):
        layer = await connect(broker.url)
        with pytest.raises(PayloadTooLarge, match="message_size_limit"):
            await layer.publish("size", b"x" * 1001)


async def test_a_broker_without_the_wanted_quality_of_service_says_so(connect: Connect) -> None:
    broker = mosquitto.mosquitto(listener=("allow_anonymous true", "max_qos 0"))
    with mosquitto.running(broker):
        layer = MQTTChannelLayer(broker.url)
        with pytest.raises(ListenerClosed, match="does not support QoS 1; use qos=0"):
            await layer.connect()
        layer = await connect(broker.url, qos=0)
        assert (await layer.publish("x", b"x")).receivers is None
