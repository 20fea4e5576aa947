"""`django.consumers.consumer_loop`: what takes the place of Channels' loop over a consumer's client and channel."""

from __future__ import annotations

import asyncio
import gc
import weakref
from time import monotonic
from typing import Any, cast

import pytest
from channels.consumer import AsyncConsumer
from channels.utils import await_many_dispatch

from django_anyio_channels import AnyioChannelLayer, Event
from django_anyio_channels.core.serializers import MessagePackSerializer
from django_anyio_channels.django.consumers import turns
from django_anyio_channels.django.consumers.consumer_loop import AT_ONCE, ConsumerLoop
from django_anyio_channels.django.consumers.internals import calling_loop, jobs_of_worker
from django_anyio_channels.django.consumers.jobs import Job

from ..helpers import node_in, soon

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class End(Exception):
    """What a handler raises to end its consumer."""


class Run:
    """A consumer's loop over a client and a channel, as Channels runs it."""

    def __init__(self, layer: AnyioChannelLayer) -> None:
        self.layer = layer
        self.handled: list[Any] = []
        self.client: asyncio.Queue[Any] = asyncio.Queue()
        self.consumer = cast(Any, AsyncConsumer())
        channels = node_in(layer).local_channels
        self.name = name = channels.new("specific", self.consumer)
        self.consumer.channel_receive = lambda: layer.receive(name)
        self.loop = ConsumerLoop(self.consumer, self.handle, channels.inbox(name))
        self.sent: list[str] = []
        self.send: Any = self._send
        self.consumer.base_send = lambda message: self.send(message)

    async def _send(self, message: Any) -> None:
        self.sent.append(message["text"])

    def send_frames(self) -> ConsumerLoop:
        """Have ready frames be sent while the consumer waits."""
        self.loop = ConsumerLoop(self.consumer, self.handle, self.loop.inbox, sends_frames=True)
        return self.loop

    def have_others_first(self, iterations: int = 1) -> None:
        """Have as many consumers woken as are in a number of the event loop's iterations."""
        for _ in range(iterations * turns.WOKEN_AT_ONCE):
            self.loop.inbox.turns.ask(lambda: None)

    async def start_waiting(self) -> asyncio.Task[None]:
        """Start it, have the client connect, and return when the consumer waits."""
        task = self.start()
        self.say("connect")
        await self.until("connect")
        await self.waits()
        return task

    def put_frame(self, text: str) -> bool:
        """Have this ready frame sent, if the consumer takes it."""
        assert self.loop.inbox.put_frame is not None
        return self.loop.inbox.put_frame({"type": "websocket.send", "text": text})

    async def waits(self) -> None:
        """Return when the consumer waits for a message, and nobody else does."""
        async with asyncio.timeout(10):
            while self.loop.inbox.notifier._waiters != [self.loop]:
                await asyncio.sleep(0)

    async def handle(self, message: Any) -> None:
        self.handled.append(message["type"])
        if message["type"] == "end":
            raise End

    def start(self) -> asyncio.Task[None]:
        receivers: list[Any] = [self.client.get, self.consumer.channel_receive]
        return asyncio.ensure_future(await_many_dispatch(receivers, self.loop))

    def say(self, *types: str) -> None:
        """Have the client send these."""
        for name in types:
            self.client.put_nowait({"type": name})

    def put(self, *types: str) -> None:
        """Have these wait in the channel's mailbox."""
        for name in types:
            payload = MessagePackSerializer().encode({"type": name})
            node_in(self.layer).local_channels.deliver(self.name, monotonic(), payload)

    async def until(self, *types: str) -> None:
        async with asyncio.timeout(30):
            while len(self.handled) < len(types):
                await asyncio.sleep(0)
        assert self.handled == list(types)


@pytest.fixture
async def run() -> Any:
    layer = AnyioChannelLayer()
    await layer.new_channel()
    yield Run(layer)
    await layer.close()


async def ends(task: asyncio.Task[None]) -> None:
    with pytest.raises(End):
        await soon(task)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [other for other in others if "Queue.get" in repr(other)], "nobody receives from the client any more"


async def test_it_handles_client_and_channel_until_a_handler_raises(run: Run) -> None:
    task = run.start()
    run.say("connect")
    await run.until("connect")
    run.put("one", "two")
    await run.until("connect", "one", "two")
    run.say("more")
    await run.until("connect", "one", "two", "more")
    run.put("end")
    await ends(task)


async def test_it_begins_with_a_message_of_the_channel(run: Run) -> None:
    task = run.start()
    await asyncio.sleep(0)
    run.put("one")
    await run.until("one")
    run.say("end")
    await ends(task)


async def test_both_have_a_message_at_the_beginning(run: Run) -> None:
    run.say("connect")
    run.put("one", "two")
    task = run.start()
    await run.until("connect", "one", "two")
    run.say("end")
    await ends(task)


async def test_the_client_has_its_turn_after_a_number_of_messages(run: Run) -> None:
    task = run.start()
    run.say("connect")
    await run.until("connect")
    run.put(*["one"] * 90)
    run.say("client")
    run.say("end")
    await ends(task)
    assert run.handled.index("client") < 90


async def test_a_cancelled_one_passes_its_notification_on(run: Run) -> None:
    task = run.start()
    run.say("connect")
    await run.until("connect")
    other = asyncio.ensure_future(run.layer.receive(run.name))
    await asyncio.sleep(0)
    run.put("one")
    task.cancel()
    assert await soon(other) == {"type": "one"}
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_client_that_is_done_while_messages_are_handled_needs_no_wait(run: Run) -> None:
    async def handle(message: Any) -> None:
        run.handled.append(message["type"])
        if message["type"] == "one":
            run.say("end")
            await asyncio.sleep(0.001)
        if message["type"] == "end":
            raise End

    run.loop = ConsumerLoop(run.consumer, handle, node_in(run.layer).local_channels.inbox(run.name))
    task = run.start()
    run.say("connect")
    await run.until("connect")
    run.put("one")
    await ends(task)
    assert run.handled == ["connect", "one", "end"]


async def test_waits_that_no_message_ended_leave_nothing_behind(run: Run) -> None:
    room: asyncio.Queue[None] = asyncio.Queue()

    async def send(message: Any) -> None:
        run.handled.append(message["text"])
        await room.get()
        run.sent.append(message["text"])

    run.send = send
    loop = run.send_frames()
    task = run.start()
    run.say("connect")
    await run.until("connect")
    for number in range(5):
        await run.waits()
        assert run.put_frame(str(number))
        await run.until("connect", *map(str, range(number + 1)))
        assert not run.put_frame("behind it")
        assert not loop.inbox.notifier.has_waiters
        room.put_nowait(None)
        async with asyncio.timeout(30):
            while len(run.sent) <= number:
                await asyncio.sleep(0)
    run.say("end")
    await ends(task)
    assert run.sent == ["0", "1", "2", "3", "4"]


async def test_frames_that_come_together_are_sent_together_and_not_in_the_call(run: Run) -> None:
    """A send may do anything, such as leave the group, while the message is still given to others."""
    run.send_frames()
    task = await run.start_waiting()
    assert all(run.put_frame(str(number)) for number in range(3))
    assert not run.sent
    await asyncio.sleep(0)
    assert run.sent == ["0", "1", "2"]
    run.say("end")
    await ends(task)


@pytest.mark.parametrize("waits", [True, False])
async def test_what_a_send_sends_to_its_own_consumer_comes_behind(run: Run, waits: bool) -> None:
    run.send_frames()

    async def send(message: Any) -> None:
        if message["text"] == "outer":
            run.put_frame("nested")
            run.put("one")
            assert not run.put_frame("behind the message")
        if waits:
            await asyncio.sleep(0)
        run.handled.append(message["text"])

    run.send = send
    task = await run.start_waiting()
    assert run.put_frame("outer")
    await run.until("connect", "outer", "websocket.broadcast", "one")
    run.say("end")
    await ends(task)


async def test_a_send_that_always_sends_to_its_own_consumer_leaves_the_event_loop_its_turns(run: Run) -> None:
    run.send_frames()

    async def send(message: Any) -> None:
        run.put_frame("again")

    run.send = send
    task = await run.start_waiting()
    assert run.put_frame("first")
    await run.until("connect", "websocket.broadcast")
    run.say("end")
    await ends(task)


@pytest.mark.parametrize("first", ["client", "send"])
async def test_another_reader_need_not_wait_for_what_is_handled_before_a_message(run: Run, first: str) -> None:
    other: asyncio.Future[Any]

    async def wait_for_the_other(message: Any) -> None:
        if message in ({"type": "client"}, {"type": "websocket.send", "text": "frame"}):
            run.handled.append(await other)

    run.send = wait_for_the_other
    run.loop = ConsumerLoop(run.consumer, wait_for_the_other, run.loop.inbox, sends_frames=True)
    task = run.start()
    run.say("connect")
    await run.waits()
    other = asyncio.ensure_future(run.layer.receive(run.name))
    await asyncio.sleep(0)
    run.have_others_first()
    if first == "send":
        assert run.put_frame("frame")
    else:
        run.say("client")
    run.put("one")
    async with asyncio.timeout(30):
        while not run.handled:
            await asyncio.sleep(0)
    assert run.handled == [{"type": "one"}]
    task.cancel()
    await asyncio.wait([task])


async def test_a_send_that_fails_leaves_the_message_to_another_reader(run: Run) -> None:
    async def send(message: Any) -> None:
        raise End

    run.send = send
    run.send_frames()
    task = await run.start_waiting()
    other = asyncio.ensure_future(run.layer.receive(run.name))
    await asyncio.sleep(0)
    assert run.put_frame("frame")
    run.put("one")
    await ends(task)
    assert await soon(other) == {"type": "one"}


@pytest.mark.parametrize("end", ["raises", "is cancelled"])
async def test_nothing_of_the_connection_outlives_the_consumer(run: Run, end: str) -> None:
    class Connection:
        async def send(self, message: Any) -> None:
            pass

    connection = Connection()
    run.consumer.base_send = connection.send
    run.send_frames()
    task = await run.start_waiting()
    if end == "raises":
        run.say("end")
        await ends(task)
    else:
        task.cancel()
        await asyncio.wait([task])
    gone = weakref.ref(connection)
    del connection, run.consumer.base_send
    gc.disable()
    try:
        # The inbox, which the layer lets go of when the consumer ends, does not have it either.
        assert gone() is None
    finally:
        gc.enable()


async def test_frames_that_wait_for_a_turn_come_before_later_messages(run: Run) -> None:
    run.send_frames()
    task = await run.start_waiting()
    run.have_others_first()
    assert run.put_frame("first")
    assert run.put_frame("second")
    run.put("one")
    assert not run.put_frame("behind the message")
    await run.until("connect", "one")
    assert run.sent == ["first", "second"]
    run.say("end")
    await ends(task)


async def test_a_client_that_is_quicker_than_the_turn_has_frames_handled(run: Run) -> None:
    run.send_frames()
    task = await run.start_waiting()
    run.have_others_first(3)
    assert run.put_frame("frame")
    run.say("client")
    await run.until("connect", "client", "websocket.broadcast")
    run.say("end")
    await ends(task)


async def test_frames_are_bounded(run: Run) -> None:
    run.send_frames()
    task = await run.start_waiting()
    run.have_others_first()
    assert [run.put_frame(str(number)) for number in range(AT_ONCE + 1)] == [True] * AT_ONCE + [False]
    run.say("end")
    await ends(task)


@pytest.mark.parametrize("caught", [False, True])
async def test_a_cancelled_consumer_has_its_send_cancelled_where_it_waits(run: Run, caught: bool) -> None:
    async def send(message: Any) -> None:
        asyncio.get_running_loop().call_soon(task.cancel)  # before the consumer's task has a turn
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            run.handled.append("cancelled")
            if not caught:
                raise

    run.send = send
    run.send_frames()
    task = await run.start_waiting()
    assert run.put_frame("frame")
    await run.until("connect", "cancelled")
    if caught:  # as when a handler catches it
        run.say("end")
        await ends(task)
    else:
        await asyncio.wait([task])
        assert task.cancelled()


async def test_other_callers_have_one_message_handled(run: Run) -> None:
    await run.loop({"type": "one"})
    assert run.handled == ["one"]


async def test_a_loop_over_other_receivers_is_left_alone(run: Run) -> None:
    found: list[Any] = []

    async def dispatch(message: Any) -> None:
        found.append(calling_loop(run.consumer))
        raise End

    others: list[list[Any]] = [[run.client.get], [run.client.get, asyncio.Event().wait]]
    for receivers in others:
        run.say("one")
        with pytest.raises(End):
            await soon(await_many_dispatch(receivers, dispatch))
    assert found == [None, None]


async def test_a_workers_jobs_are_taken_without_a_task_for_each(run: Run) -> None:
    run.consumer.scope = {"type": "channel", "channel": "jobs"}
    task = run.start()
    run.say("one", "two", "three")
    await run.until("one", "two", "three")
    run.say("four", "end", "later")
    await ends(task)
    assert run.handled == ["one", "two", "three", "four", "end"]


@pytest.mark.parametrize("scope", [{"type": "channel"}, {"type": "websocket"}], ids=["worker", "client"])
async def test_whose_queue_may_be_read(scope: Any) -> None:
    consumer: Any = AsyncConsumer()
    consumer.scope = scope
    queue: asyncio.Queue[Any] = asyncio.Queue()
    assert jobs_of_worker(consumer, queue.get, {}) is (queue if scope["type"] == "channel" else None)
    assert jobs_of_worker(consumer, asyncio.Event().wait, {}) is None, "another server"
    assert jobs_of_worker(None, queue.get, {}) is None
    acknowledged = Job({}, "jobs", Event("jobs", b""))
    assert jobs_of_worker(consumer, queue.get, acknowledged) is None, "one at a time"


async def test_a_caller_that_is_no_loop_is_left_alone(run: Run) -> None:
    async def dispatch() -> Any:
        return calling_loop(run.consumer)

    assert await dispatch() is None
