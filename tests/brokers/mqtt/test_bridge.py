"""Groups that are topics of devices. The devices are clients of other makers, which know nothing of Channels."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.streams.text
import anyio.to_thread
import msgspec
import paho.mqtt.client as paho
import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from paho.mqtt.enums import CallbackAPIVersion

from django_anyio_channels import AnyioChannelLayer, MQTTChannelLayer, NotSupported
from django_anyio_channels.brokers.mqtt.layer import Properties
from django_anyio_channels.core.exceptions import SubscriptionRefused
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.settings import ConfigError
from tests.support.brokers.mosquitto import Mosquitto, find_client
from tests.support.layers import TIME_LIMIT

pytestmark = pytest.mark.anyio

BRIDGE = {
    "kitchen": "home/kitchen/temperature",
    "lamp.{name}": "home/{name}/lamp",
    "sensors": "sensors/+/value",
    "camera": {"topic": "home/camera", "payload": "bytes", "qos": 0, "retain": True},
}


class Device:
    """A client of Eclipse's library, with a thread of its own as it is used on devices."""

    def __init__(self, port: int) -> None:
        self.received: queue.Queue[tuple[str, bytes, bool]] = queue.Queue()
        self.subscribed: queue.Queue[int] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda client, _, each: self.received.put(
            (each.topic, bytes(each.payload), each.retain)
        )
        self._client.on_subscribe = lambda client, _, number, *rest: self.subscribed.put(number)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes | str, **options: Any) -> None:
        self._client.publish(topic, payload, qos=1, **options).wait_for_publish(TIME_LIMIT)

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        self.subscribed.get(timeout=TIME_LIMIT)

    def receive(self) -> tuple[str, bytes]:
        return self.received.get(timeout=TIME_LIMIT)[:2]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def device(broker: Mosquitto) -> Iterator[Device]:
    one = Device(broker.port)
    yield one
    one.close()


def new_layer(broker: Mosquitto, **config: Any) -> AnyioChannelLayer:
    return AnyioChannelLayer(**{"url": broker.url, "bridge": BRIDGE, **config})


@pytest.fixture(params=[None, ["a secret key"]], ids=["plain", "encrypted"])
async def layer(request: pytest.FixtureRequest, broker: Mosquitto) -> AsyncIterator[AnyioChannelLayer]:
    """Devices know no keys: encryption must not reach them."""
    one = new_layer(broker, prefix="bridge", symmetric_encryption_keys=request.param, max_message_size=10_000)
    with anyio.fail_after(TIME_LIMIT):
        yield one
        await one.close()


async def member(layer: AnyioChannelLayer, group: str) -> str:
    name = await layer.new_channel()
    await layer.group_add(group, name)
    return name


def message(topic: str, payload: Any) -> dict[str, Any]:
    return {"type": "mqtt.message", "topic": topic, "payload": payload}


# ---- both directions ---------------------------------------------------------------------------------------------


async def test_a_device_and_a_group_send_to_each_other(layer: AnyioChannelLayer, device: Device) -> None:
    topic = "home/kitchen/temperature"
    members = [await member(layer, "kitchen") for _ in range(2)]
    reading = {"celsius": 21.5, "room": "Küche", "history": [21, None, True]}
    device.publish(topic, json.dumps(reading))
    for name in members:
        assert await layer.receive(name) == message(topic, reading)
    device.subscribe(topic)
    await layer.group_send("kitchen", {"type": "mqtt.message", "payload": {"set": 23, "note": "wärmer"}})
    received, payload = device.receive()
    assert (received, payload.decode()) == (topic, '{"set":23,"note":"wärmer"}')
    for name in members:
        assert await layer.receive(name) == message(topic, {"set": 23, "note": "wärmer"})


async def test_two_processes_share_a_bridge(broker: Mosquitto, layer: AnyioChannelLayer, device: Device) -> None:
    name = await member(layer, "lamp.hall")
    await asyncio.to_thread(layer.group_send_sync, "lamp.hall", {"type": "mqtt.message", "payload": "on"})
    assert await layer.receive(name) == message("home/hall/lamp", "on")
    device.publish("home/attic/lamp", '"on"')
    device.publish("home/hall/lamp", '"off"')
    assert await layer.receive(name) == message("home/hall/lamp", "off")


async def test_one_group_receives_from_many_devices(layer: AnyioChannelLayer, device: Device) -> None:
    name = await member(layer, "sensors")
    for number in range(3):
        device.publish(f"sensors/{number}/value", f"{number}")
    assert [await layer.receive(name) for _ in range(3)] == [message(f"sensors/{n}/value", n) for n in range(3)]
    device.subscribe("sensors/#")
    await layer.group_send("sensors", message("sensors/7/value", {"reset": True}))
    assert device.receive() == ("sensors/7/value", b'{"reset":true}')


async def test_raw_bytes_which_the_broker_keeps(layer: AnyioChannelLayer, device: Device) -> None:
    name = await member(layer, "camera")
    picture = bytes(range(256))
    await layer.group_send("camera", {"type": "mqtt.message", "payload": picture})
    assert await layer.receive(name) == message("home/camera", picture)
    device.subscribe("home/camera")
    assert device.received.get(timeout=TIME_LIMIT) == ("home/camera", picture, True)
    device.publish("home/camera", b"", retain=True)
    assert await layer.receive(name) == message("home/camera", b"")


async def test_a_normal_channel_in_the_group_of_a_device(layer: AnyioChannelLayer, device: Device) -> None:
    await layer.group_add("kitchen", "thermostat")
    device.publish("home/kitchen/temperature", "no JSON")
    device.publish("home/kitchen/temperature", "[18]")
    assert await layer.receive("thermostat") == message("home/kitchen/temperature", [18])
    await layer.group_discard("kitchen", "thermostat")


async def test_other_groups_stay_as_they_are(layer: AnyioChannelLayer) -> None:
    name = await member(layer, "lamp.two.words")
    await layer.group_send("lamp.two.words", {"type": "chat.message"})
    assert await layer.receive(name) == {"type": "chat.message"}
    await layer.send(name, {"type": "chat.direct"})
    assert await layer.receive(name) == {"type": "chat.direct"}


async def test_mosquittos_own_clients(broker: Mosquitto, layer: AnyioChannelLayer) -> None:
    topic = "home/cellar/lamp"
    name = await member(layer, "lamp.cellar")
    at = ["-h", "127.0.0.1", "-p", str(broker.port), "-t", topic, "-q", "1"]
    pub, sub = find_client("mosquitto_pub"), find_client("mosquitto_sub")
    environment = {**os.environ, **pub.environment}
    await anyio.run_process([pub.program, *at, "-m", '{"on": true}'], env=environment)
    assert await layer.receive(name) == message(topic, {"on": True})
    # Waits for nothing: what the broker keeps for the topic comes at once, as a sign that it has subscribed.
    await anyio.run_process([pub.program, *at, "-r", "-m", '"kept"'], env=environment)
    assert await layer.receive(name) == message(topic, "kept")
    async with await anyio.open_process(
        [sub.program, *at, "-C", "2"], env={**os.environ, **sub.environment}, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        lines = anyio.streams.text.TextReceiveStream(process.stdout)
        assert await lines.receive() == '"kept"\n'
        await layer.group_send("lamp.cellar", {"type": "mqtt.message", "payload": {"on": False}})
        assert await lines.receive() == '{"on":false}\n'
    await anyio.run_process([pub.program, *at, "-r", "-n"], env=environment)


# ---- what devices must not send ----------------------------------------------------------------------------------

GARBAGE = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b'{"celsius": NaN}',
    b'"\\ud800"',
    b"[" * 5000,
    b"123456789012345678901234567890",
    b'"' + b"x" * 20_000 + b'"',
    b'{"unfinished": ',
    msgspec.msgpack.encode({"type": "websocket.close"}),
]


async def test_a_retained_message_with_any_properties_ends_nothing(layer: AnyioChannelLayer, broker: Mosquitto) -> None:
    """U+FEFF is a character like others, and 80,000 user properties are many, but not too many."""
    topic = "home/kitchen/temperature"
    device = MQTTChannelLayer(broker.url)
    await device.connect()
    odd = Properties(
        user_properties=[("\ufeff", "\ufeff"), *[("", "")] * 80_000], content_type="\ufeff", response_topic="\ufeff"
    )
    try:
        await device.publish(topic, b"21", retain=True, properties=odd)
        name = await member(layer, "kitchen")
        assert await layer.receive(name) == message(topic, 21)
        await device.publish(topic, b"22")
        assert await layer.receive(name) == message(topic, 22)
    finally:
        await device.publish(topic, b"", retain=True)
        await device.disconnect()


async def test_the_limit_is_that_of_what_the_device_sends(
    layer: AnyioChannelLayer, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """Decoded it may be smaller, but that it must not get to be."""
    name = await member(layer, "kitchen")
    device.publish("home/kitchen/temperature", b"[" + b" " * 20_000 + b"]")
    device.publish("home/kitchen/temperature", "21")
    assert await layer.receive(name) == message("home/kitchen/temperature", 21)
    assert "Dropped 20002 bytes" in caplog.text
    assert "max_message_size is 10000 bytes" in caplog.text


class Dashboard(AsyncJsonWebsocketConsumer):
    """Shows what the kitchen publishes."""

    groups = ["kitchen"]

    async def mqtt_message(self, event: dict[str, Any]) -> None:
        await self.send_json({"topic": event["topic"], "payload": event["payload"]})


async def test_garbage_reaches_no_member(
    layer: AnyioChannelLayer, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    name = await member(layer, "kitchen")
    for payload in GARBAGE:
        device.publish("home/kitchen/temperature", payload)
    device.publish("home/kitchen/temperature", b"20")
    assert await layer.receive(name) == message("home/kitchen/temperature", 20)
    lines = [record.getMessage() for record in caplog.records if record.name == "django_anyio_channels"]
    assert len(lines) == len(GARBAGE), lines
    for line, payload in zip(lines, GARBAGE, strict=True):
        expected = f"Dropped {len(payload)} bytes from topic 'home/kitchen/temperature' for group kitchen"
        assert line.startswith(expected)


async def test_a_device_cannot_choose_the_method_of_a_consumer(broker: Mosquitto, device: Device) -> None:
    layer = new_layer(broker, prefix="consumer")
    channel_layers.set("default", layer)
    communicator = WebsocketCommunicator(Dashboard.as_asgi(), "/")
    with anyio.fail_after(TIME_LIMIT):
        assert (await communicator.connect(TIME_LIMIT))[0]
        hostile = [{"type": "websocket.close"}, {"type": "websocket.disconnect", "code": 1}, "websocket.close"]
        for payload in hostile:
            device.publish("home/kitchen/temperature", json.dumps(payload))
        for payload in GARBAGE:
            device.publish("home/kitchen/temperature", payload)
        device.publish("home/kitchen/temperature", b"22")
        for expected in [*hostile, "x" * 20_000, 22]:
            shown = await communicator.receive_json_from(TIME_LIMIT)
            assert shown == {"topic": "home/kitchen/temperature", "payload": expected}
        await communicator.disconnect()
        await layer.close()
    del channel_layers.backends["default"]


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "sent", "error"),
    [
        ("kitchen", {"type": "chat.message", "payload": 1}, "must be .*mqtt.message.* and the type 'chat.message'"),
        ("kitchen", {"type": "mqtt.message"}, r"with the keys \['type'\]"),
        ("kitchen", {"type": "mqtt.message", "payload": 1, "qos": 2}, r"with the keys \['payload', 'qos', 'type'\]"),
        ("kitchen", {"type": "mqtt.message", "payload": b"x"}, "to group kitchen cannot be JSON: .*bytes"),
        ("kitchen", {"type": "mqtt.message", "payload": float("nan")}, "to group kitchen cannot be JSON"),
        ("kitchen", message("home/other", 1), "matches home/kitchen/temperature: .* is 'home/other'"),
        (
            "sensors",
            {"type": "mqtt.message", "payload": 1},
            r"must name a topic without wildcards that matches sensors/",
        ),
        ("sensors", message("sensors/+/value", 1), "without wildcards"),
        ("sensors", {"type": "mqtt.message", "topic": 7, "payload": 1}, '"topic" is 7'),
        ("camera", {"type": "mqtt.message", "payload": "text"}, "to group camera must be bytes, not 'text'"),
    ],
)
async def test_what_is_no_message_to_a_device(broker: Mosquitto, group: str, sent: dict[str, Any], error: str) -> None:
    layer = new_layer(broker)
    with anyio.fail_after(TIME_LIMIT):
        with pytest.raises(TypeError, match=error):
            await layer.group_send(group, sent)
        await layer.close()


@pytest.mark.parametrize("options", [{"exclude": "somebody!else"}, {"close": True}], ids=repr)
async def test_a_device_gets_nothing_that_is_not_for_all(broker: Mosquitto, options: dict[str, Any]) -> None:
    layer = new_layer(broker)
    sent = {"type": "mqtt.message", "payload": 1}
    with anyio.fail_after(TIME_LIMIT):
        with pytest.raises(NotSupported, match="Group kitchen is an MQTT topic, which holds plain payloads of devices"):
            await (layer.group_close("kitchen") if "close" in options else layer.group_send("kitchen", sent, **options))
        await layer.close()


async def test_two_groups_cannot_be_one_topic(broker: Mosquitto) -> None:
    layer = new_layer(broker, bridge={"a": "same/topic", "b": "same/topic"})
    with anyio.fail_after(TIME_LIMIT):
        await member(layer, "a")
        with pytest.raises(SubscriptionRefused, match="asgi:g:b and asgi:g:a are the same MQTT topic, same/topic"):
            await member(layer, "b")
        await layer.close()


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        (["kitchen"], r"it must be a dict from groups to MQTT topics, not \['kitchen'\]"),
        ({"a b": "x"}, "'a b' is not the name of a group"),
        ({7: "x"}, "7 is not the name of a group"),
        ({"a": 7}, "group 'a' needs a topic, or a dict with 'topic' in it, not 7"),
        ({"a": {"payload": "json"}}, "group 'a' needs a topic"),
        (
            {"a": {"topic": "x", "paylod": "json"}},
            "group 'a' has the unknown key 'paylod'. Did you mean 'payload'",
        ),
        ({"a": {"topic": "x", "payload": "xml"}}, "payload of group 'a' must be 'json' or 'bytes', not 'xml'"),
        ({"a": {"topic": "x", "qos": 3}}, "qos of group 'a' must be 0, 1 or 2"),
        ({"a": {"topic": "x", "retain": "yes"}}, "retain True or False"),
        ({"a.{x}.{x}": "t/{x}"}, "has a variable twice"),
        ({"a.{x}": "t"}, r"group 'a.\{x\}' and topic 't' must have the same variables"),
        ({"a": "t/{x}"}, "must have the same variables"),
        ({"a": "t/x+"}, "whole level"),
        ({"a": "#/t"}, "must be the last level"),
        ({"a": ""}, "must not be empty"),
        ({"a": "#"}, "the broker and this layer use such topics themselves"),
        ({"a": "$SYS/x"}, "use such topics themselves"),
        ({"a": "%queue/x"}, "use such topics themselves"),
        ({"a": "asgi:g:other"}, "use such topics themselves"),
    ],
)
def test_a_bridge_that_cannot_be(rules: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=rf"CONFIG\['bridge'\] cannot be used: .*{error}") as caught:
        read_config({"url": "mqtt://127.0.0.1", "bridge": rules})
    assert caught.value.code == "E005"
    assert "{'kitchen': 'home/kitchen/temperature'}" in caught.value.hint


@pytest.mark.parametrize("url", ["memory://", ["mqtt://127.0.0.1", "mqtt://127.0.0.2"], None])
def test_a_bridge_needs_one_mqtt_broker(url: Any) -> None:
    with pytest.raises(ConfigError, match="Name one mqtt:// or mqtts:// broker") as caught:
        read_config({**({} if url is None else {"url": url}), "bridge": {}})
    assert caught.value.code == "E002"
