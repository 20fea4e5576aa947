"""`django.consumers.fast_dispatch`: consumers are given what waits in one go, and see no other difference."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

import channels
import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers
from channels.utils import await_many_dispatch

from django_anyio_channels import AnyioChannelLayer, Event
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.django.consumers import fast_dispatch
from django_anyio_channels.django.consumers.jobs import Job

from ..helpers import node_in

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("fast", [True, False])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Recording:
    """What consumers of both kinds record."""

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.threads: list[int] = []


class Async(AsyncConsumer):
    def __init__(self, seen: Recording) -> None:
        self.seen = seen

    async def client_message(self, message: dict[str, Any]) -> None:
        self.seen.handled.append(message)

    async def layer_message(self, message: dict[str, Any]) -> None:
        self.seen.handled.append(message)

    async def stop(self, message: dict[str, Any]) -> None:
        raise StopConsumer

    async def fail(self, message: dict[str, Any]) -> None:
        raise LookupError("the handler failed")


class Sync(SyncConsumer):
    def __init__(self, seen: Recording) -> None:
        self.seen = seen

    def client_message(self, message: dict[str, Any]) -> None:
        self.seen.handled.append(message)

    def layer_message(self, message: dict[str, Any]) -> None:
        self.seen.handled.append(message)
        self.seen.threads.append(threading.get_ident())

    def stop(self, message: dict[str, Any]) -> None:
        raise StopConsumer

    def fail(self, message: dict[str, Any]) -> None:
        raise LookupError("the handler failed")


kinds = pytest.mark.parametrize("kind", [Async, Sync])


class Running:
    """A consumer that runs, as a server runs it."""

    def __init__(self, consumer: Any, layer: AnyioChannelLayer) -> None:
        self.consumer = consumer
        self.layer = layer
        self.from_client: asyncio.Queue[Any] = asyncio.Queue()
        self.to_client: list[Any] = []
        self.send: Callable[[Any], Any] = self._send
        self.task = asyncio.ensure_future(consumer({"type": "test"}, self.from_client.get, self._send_to_client))

    async def _send_to_client(self, message: Any) -> None:
        await self.send(message)

    async def _send(self, message: Any) -> None:
        self.to_client.append(message)

    async def give(self, *messages: dict[str, Any]) -> None:
        """Put messages into the mailbox of the consumer's channel, and none is handled before all wait."""
        for message in messages:
            payload = MessagePackSerializer().encode(message)
            node_in(self.layer).local_channels.deliver(self.consumer.channel_name, monotonic(), payload)

    async def handles(self, *messages: dict[str, Any]) -> None:
        """Wait until these are what was handled."""
        async with asyncio.timeout(30):
            while len(self.consumer.seen.handled) < len(messages) and not self.task.done():
                await asyncio.sleep(0.001)
        assert self.consumer.seen.handled == list(messages)


@pytest.fixture
def make_layer() -> Iterator[Callable[..., AnyioChannelLayer]]:
    def make(**config: Any) -> AnyioChannelLayer:
        layer = AnyioChannelLayer(**config)
        channel_layers.set("default", layer)
        return layer

    yield make
    channel_layers.backends.clear()


async def hand_over(layer: AnyioChannelLayer, count: int) -> asyncio.Semaphore:
    """Have so many synchronous consumers at most be handed over to their thread."""
    await layer.new_channel()  # opens the node
    turns = node_in(layer).local_channels.turns
    turns.sync_thread = asyncio.Semaphore(count)
    return turns.sync_thread


@asynccontextmanager
async def running(consumer: Any, layer: AnyioChannelLayer) -> AsyncIterator[Running]:
    runs = Running(consumer, layer)
    async with asyncio.timeout(30):
        while not hasattr(consumer, "base_send"):
            await asyncio.sleep(0)
    # The consumer waits for both, its client and its channel.
    await runs.from_client.put({"type": "client.message", "number": -1})
    await runs.handles({"type": "client.message", "number": -1})
    consumer.seen.handled.clear()
    yield runs
    runs.task.cancel()
    await asyncio.wait([runs.task])
    await layer.close()


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "layer.message", "number": number, **more} for number in range(count)]


@both
@kinds
async def test_messages_are_handled_in_order(make_layer: Any, kind: Any, fast: bool) -> None:
    async with running(kind(Recording()), make_layer(fast_dispatch=fast)) as runs:
        await runs.give(*numbered(80))
        await runs.handles(*numbered(80))


@kinds
async def test_the_client_has_its_turn_while_many_messages_wait(make_layer: Any, kind: Any) -> None:
    client = {"type": "client.message"}
    async with running(kind(Recording()), make_layer()) as runs:
        await runs.give(*numbered(100))
        runs.from_client.put_nowait(client)
        async with asyncio.timeout(30):
            while len(runs.consumer.seen.handled) < 101:
                await asyncio.sleep(0.001)
        assert runs.consumer.seen.handled.index(client) < 100
        assert [message for message in runs.consumer.seen.handled if message != client] == numbered(100)


@both
@kinds
@pytest.mark.parametrize("end", ["stop", "fail", "unknown"])
async def test_a_message_that_ends_the_consumer_ends_it_at_once(
    make_layer: Any, kind: Any, fast: bool, end: str
) -> None:
    async with running(kind(Recording()), make_layer(fast_dispatch=fast)) as runs:
        await runs.give(*numbered(3), {"type": end}, *numbered(3))
        await asyncio.wait([runs.task], timeout=30)
        assert runs.consumer.seen.handled == numbered(3)
        error = runs.task.exception()
        assert {
            "stop": error is None,
            "fail": str(error) == "the handler failed",
            "unknown": str(error) == "No handler for message type unknown",
        }[end]


@both
@kinds
async def test_a_consumers_own_dispatch_sees_every_message(make_layer: Any, kind: Any, fast: bool) -> None:
    class Own(kind):  # type: ignore[misc]
        async def dispatch(self, message: dict[str, Any]) -> None:
            passed.append(message)
            await super().dispatch(message)

    passed: list[Any] = []
    async with running(Own(Recording()), make_layer(fast_dispatch=fast)) as runs:
        passed.clear()
        await runs.give(*numbered(80))
        await runs.handles(*numbered(80))
        assert passed == numbered(80)


@both
@kinds
@pytest.mark.parametrize("place", ["instance", "class"])
async def test_a_dispatch_that_is_no_method_is_called_as_it_is(
    make_layer: Any, kind: Any, fast: bool, place: str
) -> None:
    async def dispatch(message: dict[str, Any]) -> None:
        consumer.seen.handled.append(message)

    class NoMethod:
        async def __call__(self, message: dict[str, Any]) -> None:
            await dispatch(message)

    class Own(kind):  # type: ignore[misc]
        pass

    consumer = Own(Recording())
    if place == "instance":
        consumer.dispatch = dispatch
    else:
        Own.dispatch = NoMethod()
    async with running(consumer, make_layer(fast_dispatch=fast)) as runs:
        await runs.give(*numbered(3))
        await runs.handles(*numbered(3))


async def test_an_instrumented_dispatch_sees_every_message(make_layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Any = AsyncConsumer.dispatch
    passed: list[Any] = []

    async def traced(self: AsyncConsumer, message: Any) -> None:
        passed.append(message)
        await original(self, message)

    monkeypatch.setattr(AsyncConsumer, "dispatch", traced)
    monkeypatch.setattr(fast_dispatch, "_ASYNC_DISPATCH", traced)  # as if this had been imported later
    async with running(Async(Recording()), make_layer()) as runs:
        passed.clear()
        await runs.give(*numbered(3))
        await runs.handles(*numbered(3))
        assert passed == numbered(3)


@both
async def test_context_variables_of_a_handler_stay_for_the_next_one(make_layer: Any, fast: bool) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    class Counting(Async):
        async def layer_message(self, message: dict[str, Any]) -> None:
            variable.set(variable.get() + 1)
            self.seen.handled.append({**message, "count": variable.get()})

    async with running(Counting(Recording()), make_layer(fast_dispatch=fast)) as runs:
        await runs.give(*numbered(3))
        await runs.handles(*({**message, "count": message["number"] + 1} for message in numbered(3)))


@both
@kinds
async def test_a_cancelled_consumer_handles_no_more(make_layer: Any, kind: Any, fast: bool) -> None:
    all_sent, begun, go_on = threading.Event(), threading.Event(), threading.Event()

    class WaitingSync(Sync):
        def layer_message(self, message: dict[str, Any]) -> None:
            super().layer_message(message)
            if message["number"] == 0:
                all_sent.wait(30)
            else:
                begun.set()
                go_on.wait(30)

    class WaitingAsync(Async):
        async def layer_message(self, message: dict[str, Any]) -> None:
            await super().layer_message(message)
            if message["number"] == 0:
                await asyncio.to_thread(all_sent.wait, 30)
            else:
                begun.set()
                await asyncio.sleep(30)

    waiting: Any = WaitingSync if kind is Sync else WaitingAsync
    async with running(waiting(Recording()), make_layer(fast_dispatch=fast)) as runs:
        await runs.give(*numbered(4))
        all_sent.set()
        async with asyncio.timeout(30):
            while not begun.is_set():
                await asyncio.sleep(0.001)
        runs.task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait([runs.task], timeout=30)
        assert runs.task.cancelled()
        assert runs.consumer.seen.handled == numbered(2)


async def test_a_synchronous_consumer_hops_once_for_all_that_waits(
    make_layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    handle_all: Any = fast_dispatch._handle_all

    async def counting(consumer: Any, messages: list[Any], *others: Any) -> None:
        batches.append(len(messages))
        await handle_all(consumer, messages, *others)

    monkeypatch.setattr(fast_dispatch, "_handle_all", counting)
    async with running(Sync(Recording()), make_layer()) as runs:
        batches.clear()
        await runs.give(*numbered(20))
        await runs.handles(*numbered(20))
        assert sum(batches) == 20
        assert len(batches) < 5
        assert len(set(runs.consumer.seen.threads)) == 1


class Replying(Sync):
    """Sends what it handles to its client, which may not read."""

    def layer_message(self, message: dict[str, Any]) -> None:
        super().layer_message(message)
        self.send(message)


async def test_clients_that_do_not_read_hold_up_no_other_synchronous_consumer(make_layer: Any) -> None:
    layer = make_layer()
    await hand_over(layer, 2)
    room = asyncio.Event()
    waiting: list[Any] = []

    async def send(message: Any) -> None:
        waiting.append(message)
        await room.wait()

    async with running(Replying(Recording()), layer) as one, running(Replying(Recording()), layer) as two:
        one.send = two.send = send
        for slow in (one, two):
            await slow.give(*numbered(1))
            await slow.handles(*numbered(1))
        async with asyncio.timeout(30):
            while len(waiting) < 2:
                await asyncio.sleep(0.001)
        async with running(Sync(Recording()), layer) as other:
            await other.give(*numbered(3))
            await other.handles(*numbered(3))
        room.set()


async def test_a_handler_may_wait_for_another_synchronous_consumer(make_layer: Any) -> None:
    layer = make_layer()
    await hand_over(layer, 2)
    begun, go_on = threading.Event(), threading.Event()

    async def run_inner() -> None:
        jobs: asyncio.Queue[Any] = asyncio.Queue()
        for message in ({"type": "client.message"}, {"type": "stop"}):
            jobs.put_nowait(message)
        server: Any = inner
        await server({"type": "test"}, jobs.get, jobs.put)

    class Outer(Sync):
        def layer_message(self, message: dict[str, Any]) -> None:
            begun.set()
            go_on.wait(30)
            async_to_sync(run_inner)()
            super().layer_message(message)

    inner = Sync(Recording())
    async with running(Outer(Recording()), layer) as outer, running(Sync(Recording()), layer) as other:
        await outer.give(*numbered(1))
        async with asyncio.timeout(30):
            while not begun.is_set():
                await asyncio.sleep(0.001)
            await other.give(*numbered(1))
            while not node_in(layer).local_channels.turns.sync_thread.locked():
                await asyncio.sleep(0.001)
        go_on.set()
        await outer.handles(*numbered(1))
        await other.handles(*numbered(1))
        assert inner.seen.handled == [{"type": "client.message"}]


@both
@kinds
@pytest.mark.parametrize("early", [True, False])
async def test_a_call_of_its_own_may_make_channels(make_layer: Any, kind: Any, fast: bool, early: bool) -> None:
    class Two(kind):  # type: ignore[misc]
        async def __call__(self, *args: Any) -> None:
            layer = channel_layers["default"]
            if early:
                self.channel_layer = layer
            self.other = await layer.new_channel()
            await super().__call__(*args)

    async with running(Two(Recording()), make_layer(fast_dispatch=fast)) as runs:
        await runs.layer.send(runs.consumer.other, {"type": "other"})
        await runs.layer.send(runs.consumer.channel_name, {"type": "layer.message"})
        await runs.handles({"type": "layer.message"})
        async with asyncio.timeout(30):
            assert await runs.layer.receive(runs.consumer.other) == {"type": "other"}
        assert len(node_in(runs.layer).local_channels.inboxes) == fast


async def test_a_layer_that_receives_in_its_own_way_is_asked_for_each_message(make_layer: Any) -> None:
    layer = make_layer()
    received: list[Any] = []
    receive = layer.receive

    async def wrapped(channel: str) -> Any:
        message = await receive(channel)
        received.append(message)
        return message

    layer.receive = wrapped
    async with running(Async(Recording()), layer) as runs:
        await runs.layer.send(runs.consumer.channel_name, {"type": "layer.message"})
        await runs.handles({"type": "layer.message"})
        assert received == [{"type": "layer.message"}]


async def test_it_is_off_where_channels_is_another_version(
    make_layer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channels, "__version__", "5.0.0")
    fast_dispatch.is_supported.cache_clear()
    with caplog.at_level(logging.INFO, "django_anyio_channels"):
        layers = [make_layer(), make_layer()]
        [record] = caplog.records
    assert "Channels 5.0.0" in record.getMessage()
    async with running(Async(Recording()), layers[1]) as runs:
        assert "dispatch" not in vars(runs.consumer)
    fast_dispatch.is_supported.cache_clear()


@both
async def test_channels_loop_may_receive_on_other_names(make_layer: Any, fast: bool) -> None:
    layer = make_layer(fast_dispatch=fast)
    handled: list[Any] = []

    async def dispatch(message: Any) -> None:
        handled.append(message)
        if message == {"type": "last"}:
            raise StopConsumer

    for message in ({"type": "x"}, {"type": "last"}):
        await layer.send("normal", message)
    async with asyncio.timeout(30):
        with pytest.raises(StopConsumer):
            await await_many_dispatch([partial(layer.receive, "normal")], dispatch)
    assert handled == [{"type": "x"}, {"type": "last"}]
    await layer.close()


@both
async def test_a_workers_jobs_are_acknowledged(make_layer: Any, fast: bool) -> None:
    layer = make_layer(fast_dispatch=fast)
    consumer = Async(Recording())
    jobs: asyncio.Queue[Any] = asyncio.Queue()
    job = Job({"type": "layer.message"}, "jobs", Event("jobs", b""))
    jobs.put_nowait(job)
    scope: Any = {"type": "channel", "channel": "jobs"}
    task = asyncio.ensure_future(consumer(scope, jobs.get, jobs.put))
    async with asyncio.timeout(30):
        await job.finished.wait()
    task.cancel()
    await asyncio.wait([task])
    assert consumer.seen.handled == [job]
    await layer.close()


async def test_a_consumer_with_a_thread_of_its_own_does_not_wait_for_others(make_layer: Any) -> None:
    layer = make_layer()
    thread = await hand_over(layer, 1)
    async with thread, ThreadSensitiveContext(), running(Sync(Recording()), layer) as runs:
        await runs.give(*numbered(2))
        await runs.handles(*numbered(2))
