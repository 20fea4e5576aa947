"""`django.sending.broadcasts`, `django.messages.ready_frames`: encoded by the sender, and sent as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import channel_layers

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.messages.ready_frames import FrameHandler, to_asgi
from django_anyio_channels.hub.subscriber import Subscriber

from ..helpers import node_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Member:
    """In the group ``room``, as soon as its client is accepted."""

    groups = ["room"]


class Plain(Member, AsyncWebsocketConsumer):
    async def chat(self, message: dict[str, Any]) -> None:
        await self.send(text_data=message["text"])


class Synchronous(Member, WebsocketConsumer):
    def chat(self, message: dict[str, Any]) -> None:
        self.send(text_data=message["text"])


class Filtering(Plain):
    async def websocket_broadcast(self, message: dict[str, Any]) -> None:
        if message.get("text") != "secret":
            await self.send(text_data=f"filtered {message}")


class OwnDispatch(Plain):
    async def dispatch(self, message: dict[str, Any]) -> None:
        await super().dispatch(message)


class NoWebSocket(AsyncConsumer):
    """Gets ready frames as it gets other messages."""

    async def join(self, message: Any) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "websocket.accept"})

    async def websocket_broadcast(self, message: dict[str, Any]) -> None:
        await self.send({"type": "websocket.send", "text": f"normal {message['text']}"})


class Client:
    """A client of a consumer, as a server has it."""

    def __init__(self, consumer: Any, kind: str = "websocket") -> None:
        self.sent: list[Any] = []
        self.room = asyncio.Event()
        self.room.set()
        self.broken: Exception | None = None
        self.receive: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.ensure_future(consumer({"type": kind, "path": "/"}, self.receive.get, self._send))

    async def _send(self, message: Any) -> None:
        if self.broken is not None:
            raise self.broken
        if not self.room.is_set():
            await self.room.wait()
        self.sent.append(message.get("text", message.get("bytes", message["type"])))

    async def has(self, *expected: Any) -> None:
        async with asyncio.timeout(30):
            while len(self.sent) < len(expected) and not self.task.done():
                await asyncio.sleep(0.001)
        assert self.sent == list(expected)


@asynccontextmanager
async def clients(*consumers: Any, **config: Any) -> AsyncIterator[tuple[AnyioChannelLayer, list[Client]]]:
    layer = AnyioChannelLayer(**config)
    channel_layers.set("default", layer)
    found = [Client(consumer, "test" if isinstance(consumer, NoWebSocket) else "websocket") for consumer in consumers]
    for client, consumer in zip(found, consumers, strict=True):
        client.receive.put_nowait({"type": "join" if isinstance(consumer, NoWebSocket) else "websocket.connect"})
        await client.has("websocket.accept")
        client.sent.clear()
    try:
        yield layer, found
    finally:
        for client in found:
            client.task.cancel()
        await asyncio.wait([client.task for client in found])
        await layer.close()
        channel_layers.backends.clear()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("consumer", [Plain, Synchronous, OwnDispatch])
async def test_every_websocket_gets_it_as_it_is_and_in_order(consumer: Any, fast: bool) -> None:
    async with clients(consumer(), consumer(), fast_dispatch=fast) as (layer, found):
        await layer.broadcast("room", text="ü")
        await layer.group_send("room", {"type": "chat", "text": "between"})
        await layer.broadcast("room", bytes=b"\xff")
        await layer.broadcast("room", json={"a": [1, None]})
        await layer.broadcast(["room", "nobody"], json=None)
        await sync_to_async(layer.broadcast_sync)("room", text="last")
        for client in found:
            await client.has("ü", "between", b"\xff", '{"a": [1, null]}', "null", "last")


async def test_a_waiting_consumer_costs_no_place_in_its_mailbox(monkeypatch: pytest.MonkeyPatch) -> None:
    async with clients(Plain()) as (layer, [client]):
        [inbox] = node_in(layer).local_channels.inboxes.values()
        async with asyncio.timeout(30):
            while inbox.put_frame is None or not inbox.mailbox.has_waiters:
                await asyncio.sleep(0)
        put: list[Any] = []
        monkeypatch.setattr(Subscriber, "put", lambda mailbox, entry: put.append(entry))
        await layer.broadcast("room", text="one")
        await client.has("one")
        monkeypatch.undo()
        assert put == []


async def test_a_consumer_may_filter() -> None:
    async with clients(Filtering(), NoWebSocket()) as (layer, [filtering, normal]):
        for text in ("secret", "open"):
            await layer.broadcast("room", text=text)
        await filtering.has("filtered {'type': 'websocket.broadcast', 'text': 'open'}")
        await normal.has("normal secret", "normal open")


async def test_excluded_channels_do_not_get_it() -> None:
    consumer = Plain()
    async with clients(consumer, Plain()) as (layer, [excluded, other]):
        await layer.broadcast("room", text="one", exclude=consumer.channel_name)
        await layer.broadcast("room", text="two")
        await other.has("one", "two")
        await excluded.has("two")


async def test_a_slow_client_delays_nobody_and_gets_all_in_order() -> None:
    async with clients(Plain(), Plain(), capacity=3) as (layer, [slow, quick]):
        slow.room.clear()
        for number in range(6):
            await layer.broadcast("room", text=str(number))
            await quick.has(*map(str, range(number + 1)))
        assert slow.sent == []
        slow.room.set()
        await slow.has("0", "1", "2", "3")  # one is on its way, and three wait; the others found no room
        assert layer.statistics()["dropped"] == 2


async def test_an_error_of_the_client_ends_its_consumer_only() -> None:
    async with clients(Plain(), Plain()) as (layer, [gone, other]):
        gone.broken = ConnectionError("the client has gone")
        await layer.broadcast("room", text="one")
        await other.has("one")
        await asyncio.wait([gone.task], timeout=30)
        assert gone.task.exception() is gone.broken


async def test_a_message_that_only_looks_like_one_is_an_error_of_its_sender() -> None:
    assert to_asgi({"type": "websocket.broadcast"}) is None
    async with clients(Plain()) as (layer, [client]):
        # Not by `broadcast`: whoever can publish at the broker may write anything.
        await layer.group_send("room", {"type": "websocket.broadcast", "number": 1})
        await asyncio.wait([client.task], timeout=30)
        assert "has a text or bytes" in str(client.task.exception())


@pytest.mark.parametrize(
    "frame",
    [{}, {"text": 1}, {"bytes": "text"}, {"text": "a", "bytes": b"b"}, {"text": "a", "json": 1}, {"json": {1, 2}}],
    ids=str,
)
async def test_exactly_one_kind_is_sent(frame: dict[str, Any]) -> None:
    layer = AnyioChannelLayer()
    with pytest.raises(TypeError, match=r"text|JSON"):
        await layer.broadcast("room", **frame)
    await layer.close()


async def test_json_is_encoded_by_the_encoder_of_config() -> None:
    encoder = "django.core.serializers.json.DjangoJSONEncoder"
    async with clients(Plain(), encoder=encoder) as (layer, [client]):
        await layer.broadcast("room", json={"day": date(2030, 1, 2)})
        await client.has('{"day": "2030-01-02"}')


def test_a_handler_is_no_reason_to_keep_its_consumer() -> None:
    consumer = Plain()
    assert FrameHandler(consumer)._consumer() is consumer


@pytest.mark.parametrize("sends", ["ready frames", "messages"])
async def test_what_a_send_publishes_comes_after_the_frame_for_all_members(sends: str) -> None:
    """Middleware may send to the group as it passes a frame on, or have the member leave it."""

    class Passing(Client):
        async def _send(self, message: Any) -> None:
            await super()._send(message)
            if message.get("text") == "first":
                await layer.group_discard("room", self.consumer.channel_name)
                if sends == "messages":
                    await layer.group_send("room", {"type": "chat", "text": "second"})
                else:
                    await layer.broadcast("room", text="second")

        def __init__(self, consumer: Any) -> None:
            self.consumer = consumer
            super().__init__(consumer)

    async with clients(Plain(), Plain()) as (layer, [before, behind]):
        passing = Passing(Plain())
        passing.receive.put_nowait({"type": "websocket.connect"})
        await passing.has("websocket.accept")
        last = Client(Plain())
        last.receive.put_nowait({"type": "websocket.connect"})
        await last.has("websocket.accept")
        await layer.broadcast("room", text="first")
        await passing.has("websocket.accept", "first")
        for client in (before, behind):
            await client.has("first", "second")
        await last.has("websocket.accept", "first", "second")
        for client in (passing, last):
            client.task.cancel()
        await asyncio.wait([passing.task, last.task])
