"""MQTT, at QoS 0 and 1, beside the bare client libraries, aiomqtt, and starlette_web's layer where it is installed.

The bare contenders do the least that an application can do: one topic, one connection, one queue for each member, the
message encoded once. None of them waits for the broker's acknowledgement at QoS 1, except aiomqtt; ours does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any, cast

import msgspec

from tests.brokers import mosquitto

from .contenders import Contender, Layer, Message, ours
from .harness import BenchmarkSet, Figure, Measure, Scenario, Target
from .scenarios import Figures, fan_out, latency

OURS, GMQTT, PAHO, AIOMQTT, STARLETTE = "ours", "bare gmqtt", "bare paho", "aiomqtt", "starlette_web"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Publish = Callable[[str, bytes], Awaitable[None]]


class Client:
    """A client library as a layer: ``connect`` sets the three functions that differ."""

    def __init__(self, connect: Callable[[Client], Awaitable[None]]) -> None:
        self.publish: Publish
        self.subscribe: Callable[[str], Awaitable[None]]
        self.close: Callable[[], Awaitable[None]]
        self._connect = connect
        self._connected: asyncio.Task[None] | None = None
        self._queues: dict[str, asyncio.Queue[bytes]] = {}
        self._groups: dict[str, list[asyncio.Queue[bytes]]] = {}
        self._numbers = count()

    def arrive(self, topic: str, payload: bytes) -> None:
        """A message came."""
        for member in self._groups.get(topic, ()):
            member.put_nowait(payload)

    async def new_channel(self) -> str:
        if self._connected is None:
            self._connected = asyncio.ensure_future(self._connect(self))
        await self._connected
        name = f"bare!{next(self._numbers)}"
        self._queues[name] = asyncio.Queue()
        return name

    async def receive(self, channel: str) -> Message:
        return cast(Message, _decode(await self._queues[channel].get()))

    async def group_add(self, group: str, channel: str) -> None:
        members = self._groups.setdefault(group, [])
        members.append(self._queues[channel])
        if len(members) == 1:
            await self.subscribe(group)

    async def group_send(self, group: str, message: Message) -> None:
        await self.publish(group, _encode(message))

    async def group_discard(self, group: str, channel: str) -> None:
        self._groups[group].remove(self._queues.pop(channel))

    async def send(self, channel: str, message: Message) -> None:
        raise NotImplementedError("topics only")


def _client(name: str, connect: Callable[[Client], Awaitable[None]]) -> Contender:
    async def close(layer: Layer) -> None:
        await cast(Client, layer).close()

    return Contender(name, lambda: cast(Layer, Client(connect)), close)


def gmqtt(port: int, qos: int) -> Contender:
    """gmqtt: ``publish`` hands over to the socket; acknowledgements are the library's own business."""

    async def connect(client: Client) -> None:
        import gmqtt

        bare: Any = gmqtt.Client(None)
        confirmed: asyncio.Queue[int] = asyncio.Queue()

        def on_message(_: Any, topic: str, payload: bytes, *rest: Any) -> int:
            client.arrive(topic, bytes(payload))
            return 0

        async def publish(topic: str, payload: bytes) -> None:
            bare.publish(topic, payload, qos=qos)

        async def subscribe(topic: str) -> None:
            bare.subscribe(topic, qos=qos)
            await confirmed.get()

        bare.on_message = on_message
        bare.on_subscribe = lambda _, mid, *rest: confirmed.put_nowait(mid)
        await bare.connect("127.0.0.1", port)
        client.publish, client.subscribe, client.close = publish, subscribe, bare.disconnect

    return _client(GMQTT, connect)


def paho(port: int, qos: int) -> Contender:
    """paho-mqtt with its own thread, as its manual shows."""

    async def connect(client: Client) -> None:
        from paho.mqtt.client import Client as Paho
        from paho.mqtt.enums import CallbackAPIVersion

        loop = asyncio.get_running_loop()
        connected, confirmed = asyncio.Event(), asyncio.Event()
        bare: Any = Paho(CallbackAPIVersion.VERSION2)
        bare.max_inflight_messages_set(1000)
        bare.on_connect = lambda *rest: loop.call_soon_threadsafe(connected.set)
        bare.on_subscribe = lambda *rest: loop.call_soon_threadsafe(confirmed.set)
        bare.on_message = lambda _, __, each: loop.call_soon_threadsafe(client.arrive, each.topic, bytes(each.payload))

        async def publish(topic: str, payload: bytes) -> None:
            bare.publish(topic, payload, qos)

        async def subscribe(topic: str) -> None:
            bare.subscribe(topic, qos)
            await confirmed.wait()

        async def close() -> None:
            bare.disconnect()
            bare.loop_stop()

        bare.connect("127.0.0.1", port)
        bare.loop_start()
        await connected.wait()
        client.publish, client.subscribe, client.close = publish, subscribe, close

    return _client(PAHO, connect)


def aiomqtt(port: int, qos: int) -> Contender:
    """aiomqtt: paho's protocol in asyncio; ``publish`` waits for the acknowledgement."""

    async def connect(client: Client) -> None:
        import aiomqtt

        bare = aiomqtt.Client("127.0.0.1", port)
        await bare.__aenter__()

        async def read() -> None:
            async for message in bare.messages:
                client.arrive(str(message.topic), message.payload)

        reader = asyncio.ensure_future(read())

        async def publish(topic: str, payload: bytes) -> None:
            await bare.publish(topic, payload, qos)

        async def subscribe(topic: str) -> None:
            await bare.subscribe(topic, qos)

        async def close() -> None:
            reader.cancel()
            await asyncio.wait([reader])
            await bare.__aexit__(None, None, None)

        client.publish, client.subscribe, client.close = publish, subscribe, close

    return _client(AIOMQTT, connect)


def starlette_web(port: int) -> Contender:
    """starlette_web's ``MQTTChannelLayer`` under its ``Channel``; it subscribes at QoS 0 whatever it is told."""

    async def connect(client: Client) -> None:
        layers = import_module("starlette_web.contrib.mqtt.channel_layers")
        channels = import_module("starlette_web.common.channels.base")
        channel = channels.Channel(layers.MQTTChannelLayer(host="127.0.0.1", port=port))
        await channel.__aenter__()
        readers: list[asyncio.Future[None]] = []

        async def read(topic: str, subscribed: asyncio.Event) -> None:
            async with channel.subscribe(topic) as subscriber:
                subscribed.set()
                async for event in subscriber:
                    client.arrive(topic, _encode(event.message))

        async def publish(topic: str, payload: bytes) -> None:
            await channel.publish(topic, _decode(payload))

        async def subscribe(topic: str) -> None:
            subscribed = asyncio.Event()
            readers.append(asyncio.ensure_future(read(topic, subscribed)))
            await subscribed.wait()
            await asyncio.sleep(0.5)  # it does not say when the broker has confirmed

        async def close() -> None:
            """Its process ends now; it can be closed only by the task that opened it."""

        client.publish, client.subscribe, client.close = publish, subscribe, close

    return _client(STARLETTE, connect)


_MAKERS: dict[str, Callable[[int, int], Contender]] = {
    OURS: lambda port, qos: ours(OURS, url=f"mqtt://127.0.0.1:{port}/?qos={qos}"),
    GMQTT: gmqtt,
    PAHO: paho,
    AIOMQTT: aiomqtt,
}


def benchmarks(quick: bool) -> BenchmarkSet:
    """The set; ``quick`` is for trying it out, far too short to judge speed."""
    # Else mosquitto makes a client that has no TCP_QUICKACK wait 40 ms for each window, and nothing else is measured.
    server = mosquitto.mosquitto("set_tcp_nodelay true", "max_inflight_messages 0")
    few = 50 if quick else 1
    makers = dict(_MAKERS)
    if find_spec("starlette_web") is not None:
        makers[STARLETTE] = lambda port, qos: starlette_web(port)

    def each(qos: int, measure: Measure) -> dict[str, Measure]:
        names = [name for name in makers if not (qos and name == STARLETTE)]
        return {name: partial(_measure, measure, makers[name](server.port, qos)) for name in names}

    scenarios = []
    for qos in (0, 1):
        one, many = partial(fan_out, members=1, messages=5000 // few), partial(fan_out, members=100)
        scenarios += [
            Scenario(f"latency, QoS {qos}", each(qos, partial(latency, messages=1000 // few))),
            Scenario(f"group_send to 1, QoS {qos}", each(qos, one)),
            Scenario(f"group_send to 1, 10 senders, QoS {qos}", each(qos, partial(one, senders=10))),
            Scenario(f"group_send to 100, QoS {qos}", each(qos, partial(many, messages=500 // few))),
        ]
    contenders = tuple(make(server.port, 0) for make in makers.values())
    targets = () if quick else _targets(STARLETTE in makers)
    return BenchmarkSet("mqtt", contenders, tuple(scenarios), targets, partial(_running, server))


def _measure(measure: Measure, at_this_qos: Contender, contender: Contender) -> Figures:
    """The contender of the tables, as it is at one QoS."""
    return measure(at_this_qos)


@contextmanager
def _running(server: mosquitto.Mosquitto) -> Iterator[Callable[[], object]]:
    with mosquitto.running(server):
        yield lambda: None


def _targets(starlette: bool) -> tuple[Target, ...]:
    def target(scenario: str, against: str, unit: str = "deliveries/s", **limit: float) -> Target:
        return Target(Figure(scenario, OURS, unit), Figure(scenario, against, unit), **limit)

    bare = [target(f"group_send to 1, 10 senders, QoS {qos}", GMQTT, at_least=0.6) for qos in (0, 1)]
    if not starlette:
        return tuple(bare)
    return (
        *bare,
        target("group_send to 1, QoS 0", STARLETTE, at_least=5),
        target("group_send to 100, QoS 0", STARLETTE, at_least=10),
        target("latency, QoS 0", STARLETTE, "p50 us", at_most=1),
    )
