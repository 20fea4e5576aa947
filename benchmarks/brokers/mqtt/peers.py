"""Who else speaks MQTT: client libraries with as little as possible around them.

None of the libraries waits in ``publish`` for the broker's acknowledgement at QoS 1, except aiomqtt; ours does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ...harness.bare import BareClient

HOST = "127.0.0.1"


class BareGmqtt(BareClient):
    """gmqtt: ``publish`` hands over to the socket; acknowledgements are the library's own business."""

    def __init__(self, port: int, qos: int) -> None:
        super().__init__()
        self._port, self._qos = port, qos
        self._client: Any
        self._confirmed: asyncio.Queue[int]

    async def connect(self) -> None:
        import gmqtt

        self._confirmed = asyncio.Queue()
        self._client = gmqtt.Client(None)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda _, number, *rest: self._confirmed.put_nowait(number)
        self._client.on_unsubscribe = lambda _, number, *rest: self._confirmed.put_nowait(number)
        await self._client.connect(HOST, self._port)

    async def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=self._qos)
        await self._confirmed.get()

    async def unsubscribe(self, topic: str) -> None:
        self._client.unsubscribe(topic)
        await self._confirmed.get()

    async def publish(self, topic: str, payload: Any) -> None:
        self._client.publish(topic, payload, qos=self._qos)

    async def disconnect(self) -> None:
        await self._client.disconnect()

    def _on_message(self, _: Any, topic: str, payload: bytes, *rest: Any) -> int:
        self.arrive(topic, bytes(payload))
        return 0


class BarePaho(BareClient):
    """paho-mqtt with its own thread, as its manual shows."""

    def __init__(self, port: int, qos: int) -> None:
        super().__init__()
        self._port, self._qos = port, qos
        self._client: Any
        self._confirmed: asyncio.Queue[None]

    async def connect(self) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        loop = asyncio.get_running_loop()
        self._confirmed = asyncio.Queue()

        def confirm(*rest: Any) -> None:
            loop.call_soon_threadsafe(self._confirmed.put_nowait, None)

        def hand_out(_: Any, __: Any, message: Any) -> None:
            loop.call_soon_threadsafe(self.arrive, message.topic, bytes(message.payload))

        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(1000)
        self._client.on_connect = self._client.on_subscribe = self._client.on_unsubscribe = confirm
        self._client.on_message = hand_out
        self._client.connect(HOST, self._port)
        self._client.loop_start()
        await self._confirmed.get()

    async def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, self._qos)
        await self._confirmed.get()

    async def unsubscribe(self, topic: str) -> None:
        self._client.unsubscribe(topic)
        await self._confirmed.get()

    async def publish(self, topic: str, payload: Any) -> None:
        self._client.publish(topic, payload, self._qos)

    async def disconnect(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class BareAiomqtt(BareClient):
    """aiomqtt: paho's protocol in asyncio; ``publish`` waits for the acknowledgement."""

    def __init__(self, port: int, qos: int) -> None:
        super().__init__()
        self._port, self._qos = port, qos
        self._client: Any
        self._reader: asyncio.Task[None]

    async def connect(self) -> None:
        import aiomqtt

        self._client = aiomqtt.Client(HOST, self._port)
        await self._client.__aenter__()
        self._reader = asyncio.create_task(self._read())

    async def subscribe(self, topic: str) -> None:
        await self._client.subscribe(topic, self._qos)

    async def unsubscribe(self, topic: str) -> None:
        await self._client.unsubscribe(topic)

    async def publish(self, topic: str, payload: Any) -> None:
        await self._client.publish(topic, payload, self._qos)

    async def disconnect(self) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        await self._client.__aexit__(None, None, None)

    async def _read(self) -> None:
        async for message in self._client.messages:
            self.arrive(str(message.topic), message.payload)
