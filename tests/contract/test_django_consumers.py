"""Real consumers of Channels over every layer: what they get, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import BaseChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator
from channels.worker import Worker

from django_anyio_channels import AnyioChannelLayer

from .processes import Processes, n, soon, until

# It is about the way of the payloads, not about what is in them.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.encrypted_only,
    pytest.mark.measured_in_memory,
    pytest.mark.usefixtures("distinct_broker"),
]


async def serve(
    consumer: AsyncConsumer, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[Any]]
) -> None:
    """What a server does; these consumers look at nothing of the scope."""
    scope: Any = {"type": "websocket"}
    await consumer(scope, receive, send)


@pytest.fixture
def layer(plain_processes: Processes) -> Iterator[AnyioChannelLayer]:
    """What ``get_channel_layer()`` returns during the test."""
    layer = plain_processes.new()
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", cast(BaseChannelLayer, before))


# ---- consumers as people write them ------------------------------------------------------------------------------


class Chat(AsyncJsonWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "chat.message", "text": content})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["text"])


class SyncChat(JsonWebsocketConsumer):
    def connect(self) -> None:
        async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
        self.accept()

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)("room", self.channel_name)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        async_to_sync(self.channel_layer.group_send)("room", {"type": "chat.message", "text": content})

    def chat_message(self, event: dict[str, Any]) -> None:
        self.send_json(event["text"])


class GroupsByAttribute(AsyncWebsocketConsumer):
    groups = ["room", "other"]

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])


class PlainMethods(SyncChat):
    """The layer's own sync methods instead of `async_to_sync`."""

    channel_layer: AnyioChannelLayer

    def connect(self) -> None:
        self.channel_layer.group_add_sync("room", self.channel_name)
        self.accept()

    def disconnect(self, code: int) -> None:
        self.channel_layer.group_discard_sync("room", self.channel_name)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.channel_layer.group_send_sync("room", {"type": "chat.message", "text": content})


@pytest.mark.parametrize("consumer", [Chat, SyncChat, PlainMethods])
async def test_a_chat_of_three(layer: AnyioChannelLayer, consumer: type[Chat]) -> None:
    people = [WebsocketCommunicator(consumer.as_asgi(), "/") for _ in range(3)]
    for person in people:
        assert (await person.connect(timeout=30))[0]
    for number, speaker in enumerate(people):
        await speaker.send_json_to({"says": number})
        for person in people:
            assert await person.receive_json_from(timeout=30) == {"says": number}
    await people[0].disconnect(timeout=30)
    await people[1].send_json_to("two are left")
    for person in people[1:]:
        assert await person.receive_json_from(timeout=30) == "two are left"
        await person.disconnect(timeout=30)
    await until(lambda: layer.statistics()["channels"] == 0)


async def test_consumers_with_a_groups_attribute(layer: AnyioChannelLayer) -> None:
    person = WebsocketCommunicator(GroupsByAttribute.as_asgi(), "/")
    assert (await person.connect(timeout=30))[0]
    for group in ("room", "other"):
        await layer.group_send(group, {"type": "chat.message", "text": group})
        assert await person.receive_from(timeout=30) == group
    await person.disconnect(timeout=30)
    await until(lambda: layer.statistics()["channels"] == 0)


# asgiref's own server gives its applications a lambda.
@pytest.mark.filterwarnings("ignore:async_to_sync was passed a non-async-marked callable")
@pytest.mark.parametrize("base", [AsyncConsumer, SyncConsumer])
async def test_a_worker_reads_a_normal_channel(layer: AnyioChannelLayer, base: type[AsyncConsumer]) -> None:
    """What ``manage.py runworker`` runs."""
    done: list[int] = []

    if base is AsyncConsumer:

        class Thumbnails(AsyncConsumer):
            async def generate(self, message: dict[str, Any]) -> None:
                done.append(message["n"])
    else:

        class Thumbnails(SyncConsumer):  # type: ignore[no-redef]
            def generate(self, message: dict[str, Any]) -> None:
                done.append(message["n"])

    await layer.send("thumbnails", {"type": "generate", "n": 0})
    worker = Worker(Thumbnails.as_asgi(), ["thumbnails"], layer)
    working = asyncio.ensure_future(worker.handle())
    for number in range(1, 20):
        await layer.send("thumbnails", {"type": "generate", "n": number})
    await until(lambda: len(done) == 20)
    assert done == list(range(20))
    working.cancel()
    await asyncio.wait([working])


# ---- what is left ------------------------------------------------------------------------------------------------


class Visitor(AsyncConsumer):
    """Joins a group, handles one message, and ends."""

    handled = 0

    async def connect(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_add(message["group"], self.channel_name)
        await self.channel_layer.send(self.channel_name, {"type": "handle.it"})

    async def handle_it(self, message: dict[str, Any]) -> None:
        type(self).handled += 1
        await self.send({"type": "handled"})

    async def leave(self, message: dict[str, Any]) -> None:
        if message["discard"]:
            await self.channel_layer.group_discard(message["group"], self.channel_name)
        raise StopConsumer


async def visit(number: int, *, discard: bool, stop: bool) -> None:
    """One consumer, as a server runs it."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    handled = asyncio.Event()
    group = f"g{number % 10}"

    async def send(message: dict[str, Any]) -> None:
        handled.set()

    inbox.put_nowait({"type": "connect", "group": group})
    consumer = asyncio.ensure_future(serve(Visitor(), inbox.get, send))
    await handled.wait()
    if stop:
        inbox.put_nowait({"type": "leave", "group": group, "discard": discard})
        await consumer
    else:
        consumer.cancel()
        await asyncio.wait([consumer])
        if discard:
            await channel_layers["default"].group_discard(group, "normal")


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare each message the thread in which Channels would look for database connections to close."""

    async def nothing() -> None:
        pass

    monkeypatch.setattr("channels.consumer.aclose_old_connections", nothing)


async def count_objects() -> int:
    """Once asyncio has let go of its cancelled timers: it keeps up to a hundred, with all that their contexts hold."""
    loop = asyncio.get_running_loop()
    for _ in range(200):
        loop.call_later(3600, gc.collect).cancel()
    await asyncio.sleep(0)
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.memory_only("How a consumer goes is a matter of the process; the next test has each broker see one way.")
@pytest.mark.unmeasured
@pytest.mark.usefixtures("no_database")
@pytest.mark.parametrize("stop", [True, False], ids=["StopConsumer", "cancelled"])
@pytest.mark.parametrize("discard", [True, False], ids=["discard", "no-discard"])
async def test_consumers_that_have_gone_leave_nothing(layer: AnyioChannelLayer, discard: bool, stop: bool) -> None:
    """Two thousand in each of four ways."""
    await leave_nothing(layer, 2000, discard=discard, stop=stop)


@pytest.mark.unmeasured
@pytest.mark.usefixtures("no_database", "mortal_broker")
async def test_consumers_that_have_gone_leave_nothing_in_the_client_of_a_broker(layer: AnyioChannelLayer) -> None:
    """Fewer, and over processes only: over a network each costs round trips."""
    await leave_nothing(layer, 500, discard=False, stop=False)


async def leave_nothing(layer: AnyioChannelLayer, count: int, *, discard: bool, stop: bool) -> None:
    """Have so many consumers come and go, and look for what they left."""

    async def visits(count: int) -> None:
        for first in range(0, count, 100):
            await asyncio.gather(*[visit(number, discard=discard, stop=stop) for number in range(first, first + 100)])
        await until(lambda: layer.statistics()["channels"] == 0)
        await until(lambda: layer.statistics()["topics"] <= topics)

    # In debug mode every task and future remembers its stack, which makes minutes of seconds.
    asyncio.get_running_loop().set_debug(False)
    await layer.new_channel()
    topics = layer.statistics()["topics"]
    await visits(200)
    objects, tasks = await count_objects(), len(asyncio.all_tasks())
    await visits(count)
    assert await count_objects() - objects < count / 10
    assert len(asyncio.all_tasks()) == tasks
    assert layer.statistics()["dropped"] == 0


async def test_a_consumer_object_is_free_when_it_has_ended(layer: AnyioChannelLayer) -> None:
    class Remembered(Visitor):
        pass

    seen: list[weakref.ref[Visitor]] = []

    async def run() -> None:
        consumer = Remembered()
        seen.append(weakref.ref(consumer))
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        handled = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            handled.set()

        inbox.put_nowait({"type": "connect", "group": "g"})
        task = asyncio.ensure_future(serve(consumer, inbox.get, send))
        await handled.wait()
        inbox.put_nowait({"type": "leave", "group": "g", "discard": False})
        await task

    for _ in range(10):
        await run()
    await asyncio.sleep(0)
    gc.collect()
    assert [reference() for reference in seen] == [None] * 10


async def test_a_consumer_that_ended_with_unread_messages_leaves_nothing(layer: AnyioChannelLayer) -> None:
    class Busy(Visitor):
        async def handle_it(self, message: dict[str, Any]) -> None:
            for number in range(50):
                await self.channel_layer.send(self.channel_name, n(number))
                await self.channel_layer.group_send("g", n(number))
            raise StopConsumer

    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "connect", "group": "g"})
    await soon(serve(Busy(), inbox.get, inbox.put))
    await until(lambda: layer.statistics()["channels"] == 0)
