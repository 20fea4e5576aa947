"""Queues between nodes whose broker is a table: moments between two messages that a real broker passes too quickly."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.msgpack import encode

from django_anyio_channels import DecodeError, DeliveryUnknown, ListenerClosed, PublishRefused, SubscriptionRefused
from django_anyio_channels.brokers.mqtt.packets import NO_MATCHING_SUBSCRIBERS
from django_anyio_channels.brokers.mqtt.queues import handoff
from django_anyio_channels.brokers.mqtt.queues.client import MQTTQueues
from django_anyio_channels.brokers.mqtt.queues.messaging import Message, Messaging, resolve
from django_anyio_channels.brokers.mqtt.queues.owner import QueueOwner
from django_anyio_channels.brokers.mqtt.subscriptions import Subscription
from django_anyio_channels.brokers.mqtt.topics import to_topic
from django_anyio_channels.core.layer import Reencryption
from tests.support.layers import TIME_LIMIT

pytestmark = pytest.mark.anyio

NODES = b"%nodes//"
JOBS = NODES + b"queue/jobs"
OWNER = NODES + b"owner/jobs"
QUEUES = "django_anyio_channels.brokers.mqtt.queues"


@dataclass
class Node:
    """One node's session with the table, and its queues."""

    node: str
    table: list[tuple[Node, Subscription]]
    retained: dict[bytes, bytes]
    scope: str = ""
    reencrypt: Reencryption | None = None
    dead: bool = False
    ignored: set[bytes] = field(default_factory=set)
    """Topics to which what this node sends is accepted and lost."""
    forbidden: set[bytes] = field(default_factory=set)
    """Topics that the broker lets this node not write."""

    def __post_init__(self) -> None:
        self.address = f"table {id(self.table)}"
        self.queues = MQTTQueues(self)

    async def subscribe(self, subscription: Subscription) -> None:
        await self._round_trip()
        if (self, subscription.topic_filter) in [(node, each.topic_filter) for node, each in self.table]:
            return
        self.table.append((self, subscription))
        if subscription.retained and subscription.topic_filter in self.retained:
            assert subscription.handler is not None
            subscription.handler(self.retained[subscription.topic_filter])

    async def unsubscribe(self, topic_filter: bytes) -> None:
        await self._round_trip()
        self.table[:] = [(node, each) for node, each in self.table if (node, each.topic_filter) != (self, topic_filter)]

    async def listen(self, topic_filter: bytes, handler: Callable[[bytes], None]) -> None:
        await self.subscribe(Subscription(topic_filter, "a test's", handler=handler))

    async def publish(self, topic: bytes, payload: bytes, *, retain: bool = False, properties: bytes = b"\0") -> int:
        await self._round_trip()
        if topic in self.ignored:
            return 0
        if topic in self.forbidden:
            raise PublishRefused(f"not allowed to write {topic.decode()}")
        if retain:
            self.retained[topic] = payload
        if retain and not payload:
            del self.retained[topic]
        subscriptions: dict[tuple[str | None, bytes], Subscription] = {}
        for node, each in self.table:
            if each.topic_filter.removeprefix(b"$share/anyio/") == topic:
                key = (None if each.topic_filter.startswith(b"$share") else node.node, each.topic_filter)
                subscriptions.setdefault(key, each)
        for each in subscriptions.values():
            assert each.handler is not None
            each.handler(payload)
        return 0 if subscriptions else NO_MATCHING_SUBSCRIBERS

    async def answer_for(self, candidate: Node, verb: str) -> None:
        """Send an announcement of the queue ``jobs`` that the broker has lost, as the candidate sent it."""
        await self.publish(OWNER, encode([verb, candidate.node, candidate.queues.requests.elections._number, []]))

    @property
    def largest_packet(self) -> int:
        return 1_000_000

    def group_subscription(self, group: str, share: bytes, handler: Callable[[bytes], None]) -> Subscription:
        return Subscription(share + to_topic(group), group, handler=handler)

    async def _round_trip(self) -> None:
        self._check()
        await anyio.lowlevel.checkpoint()
        self._check()

    def _check(self) -> None:
        if self.dead:
            raise ListenerClosed("the connection was cut")

    async def put(self, message: bytes) -> None:
        await self.queues.put("jobs", message, 100, 60.0)

    async def take(self) -> bytes:
        return await self.queues.take("jobs")

    async def disconnect(self) -> None:
        """End the session as an orderly end of the program does."""
        with suppress(ListenerClosed):  # as `Session.close` does: there is no other node
            await self.queues.close()
        await self.cut()

    def lose_connection(self) -> None:
        self.dead = True
        self.table[:] = [(node, each) for node, each in self.table if node is not self]
        self.queues.end(ListenerClosed("the connection was cut"))

    async def cut(self) -> None:
        """End the session as the death of the connection does."""
        self.lose_connection()
        await self.queues.messaging.finished()

    async def reconnect(self, *ignored: bytes) -> None:
        self.dead = False
        self.ignored = set(ignored)
        self.queues = MQTTQueues(self)
        await self.queues.begin()


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    """Three nodes of one table."""
    table: list[tuple[Node, Subscription]] = []
    retained: dict[bytes, bytes] = {}
    made = [Node(name, table, retained) for name in "abc"]
    with anyio.fail_after(TIME_LIMIT):
        for node in made:
            await node.queues.begin()
        yield made
        for node in made:
            await node.cut()
        handoff.orphaned_queues.clear()


async def acquaint(owner: Node, reader: Node) -> None:
    """From now on the one owns the queue, and the other has read from it."""
    await owner.put(b"first")
    assert await reader.take() == b"first"


async def poll(reader: Node) -> None:
    """A reader comes, waits in vain, and goes."""
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def send_undelivered(owner: Node, reader: Node) -> None:
    """Have the owner send a message to a reader that has gone without the owner's knowledge."""
    await poll(reader)
    await owner.put(b"undelivered")


def reader_queue(reader: Node) -> Any:
    return reader.queues._readers._queues[b"jobs"]


def given(number: int, payload: bytes) -> Message:
    """What the owner of the queue ``jobs`` sends to a reader."""
    return Message("message", "a", number, ("jobs", (0.0, 60.0, payload)))


def undelivered(reader: Node) -> int:
    """Return how many messages are at a node without a task that waits for them."""
    return len(reader_queue(reader).undelivered)


def no_reply(payload: bytes) -> None:
    """Handle a request as an owner that hangs."""


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.sleep(0.002)


# ---- a session that ends in the middle ---------------------------------------------------------------------------


async def test_an_owner_that_does_not_answer_is_not_waited_for_for_ever(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.requests._REPLY_SECONDS", 0.01)
    mute, writer, _ = nodes
    await mute.listen(b"$share/anyio/" + JOBS, no_reply)
    with pytest.raises(DeliveryUnknown, match=r"The request to put was sent to the queue jobs.* within 0\.01 s"):
        await writer.put(b"x")


async def test_an_owner_whose_answer_was_lost_gets_the_request_again(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.client._REPEAT_SECONDS", 0.02)
    owner, writer, reader = nodes
    await acquaint(owner, reader)
    received: list[bytes] = []
    await reader.listen(JOBS, received.append)
    owner.ignored.add(NODES + b"node/b")
    task = asyncio.create_task(writer.put(b"once"))
    await until(lambda: len(received) >= 2)
    owner.ignored.clear()
    await task
    assert await reader.take() == b"once"
    # What is answered twice is done once.
    await until(lambda: not writer.queues.requests._pending)
    writer.queues._receive_reply(Message("ok", "a", 1_000_000, ()))
    await owner.put(b"last")
    assert await reader.take() == b"last"


async def test_a_session_that_ends_while_a_reader_comes_ends_its_waiting(nodes: list[Node]) -> None:
    reader = nodes[0]
    for steps in range(12):
        task = asyncio.create_task(reader.take())
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        await reader.cut()
        with pytest.raises(ListenerClosed):
            await task
        await reader.reconnect()


def test_what_had_not_begun_when_the_event_loop_ends_is_left_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise AssertionError("it must not begin")

    async def main() -> None:
        node = Node("one", [], {})
        node.queues.messaging.start_soon(work())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as the end of the event loop does

    asyncio.run(main())
    gc.collect()
    assert not caplog.records


async def test_a_mistake_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ZeroDivisionError("a mistake")

    Node("one", [], {}).queues.messaging.start_soon(work())
    await until(lambda: "a mistake" in caplog.text)
    assert caplog.records[-1].exc_info


async def test_a_session_that_ends_during_an_election_ends_the_call(nodes: list[Node]) -> None:
    candidate = nodes[0]
    candidate.ignored.add(OWNER)
    task = asyncio.create_task(candidate.put(b"x"))
    await anyio.wait_all_tasks_blocked()
    assert not task.done()
    await candidate.cut()
    with pytest.raises(ListenerClosed, match="the connection was cut"):
        await task


async def test_what_is_undelivered_when_a_session_ends_is_offered_by_the_next(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    await reader.cut()
    await reader.reconnect()
    assert await owner.take() == b"undelivered"


async def test_what_cannot_be_sent_back_is_offered_in_the_next_session(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{QUEUES}.readers._LINGER_SECONDS", 0.05)
    caplog.set_level("DEBUG")
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    reader.dead = True  # the queues learn of it only by trying
    await until(lambda: "Background task cancelled: the connection was cut" in caplog.text)
    await reader.cut()
    await reader.reconnect()
    assert await owner.take() == b"undelivered"


async def test_nothing_goes_on_when_a_session_is_finished(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await poll(reader)
    reader.queues._readers._end_linger(b"jobs", reader_queue(reader))
    assert reader.queues.messaging._tasks, "the owner is sent a request"
    await reader.cut()
    assert not reader.queues.messaging._tasks


# ---- readers that come and go ------------------------------------------------------------------------------------


async def test_polling_costs_no_packets(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{QUEUES}.readers._LINGER_SECONDS", 60.0)
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await poll(reader)
    (number,) = reader_queue(reader).known
    reader.ignored.add(JOBS)  # what it sends from now on is lost
    for _ in range(10):
        await poll(reader)
    assert list(reader_queue(reader).known) == [number]
    await owner.put(b"second")
    assert await reader.take() == b"second"


async def test_a_task_that_polls_without_waiting_gets_what_came(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.readers._LINGER_SECONDS", 0.0)
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await owner.put(b"second")
    taken = None
    while taken is None:
        with anyio.move_on_after(0):
            taken = await reader.take()
        await anyio.sleep(0.02)  # so often it polls
    assert taken == b"second"


async def test_what_nobody_comes_for_goes_back_and_leaves_nothing_behind(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.readers._LINGER_SECONDS", 0.0)
    monkeypatch.setattr(f"{QUEUES}.readers._POLLING_SECONDS", 0.02)
    owner, reader, other = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    assert await other.take() == b"undelivered"
    await until(lambda: not reader.queues._readers._queues)


async def test_a_reader_that_does_not_come_back_is_removed(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{QUEUES}.readers._LINGER_SECONDS", 0.0)
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    jobs = owner.queues.requests.elections.owners[b"jobs"]
    task = asyncio.create_task(reader.take())
    await until(lambda: jobs.readers)
    task.cancel()
    await until(lambda: not jobs.readers)


async def test_a_task_that_comes_while_messages_go_back_is_not_forgotten(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    await until(lambda: undelivered(reader))
    queue = reader_queue(reader)
    returning = asyncio.create_task(reader.queues._readers._return_undelivered(b"jobs", queue))
    await anyio.lowlevel.checkpoint()
    assert queue.returning
    task = asyncio.create_task(reader.take())
    await anyio.lowlevel.checkpoint()
    (number,) = queue.known
    reader.queues._readers.receive(given(number, b"meanwhile"))
    reader.queues._readers._end_linger(b"jobs", queue)
    await returning
    assert sorted([await task, await reader.take()]) == [b"meanwhile", b"undelivered"]


async def test_what_a_reader_was_given_outlives_it_and_the_session(nodes: list[Node]) -> None:
    """The message was given to a task, then the session ended, and then the task was cancelled before it ran."""
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    (number,) = reader_queue(reader).known
    reader.queues._readers.receive(given(number, b"given"))
    reader.lose_connection()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await reader.reconnect()
    assert await reader.take() == b"given"


async def test_a_refusal_reaches_the_reader(nodes: list[Node]) -> None:
    reader = nodes[1]
    reader.forbidden.add(JOBS)
    with pytest.raises(PublishRefused, match="not allowed"):
        await reader.take()


async def test_a_refusal_that_no_reader_waits_for_is_logged(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    reader = nodes[1]
    await reader.put(b"first")
    assert await reader.take() == b"first"
    reader.forbidden.add(JOBS)
    task = asyncio.create_task(reader.take())
    await anyio.lowlevel.checkpoint()
    task.cancel()
    await until(lambda: "not allowed to write %nodes//queue/jobs" in caplog.text)


# ---- hand-off ----------------------------------------------------------------------------------------------------


async def test_the_next_node_of_the_process_gets_what_nobody_took(nodes: list[Node]) -> None:
    for node in nodes[1:]:
        await node.cut()
    owner = nodes[0]
    await owner.put(b"kept")
    await owner.disconnect()
    next_node = Node("d", owner.table, owner.retained)
    next_node.address = owner.address
    await next_node.queues.begin()
    assert await next_node.take() == b"kept"


async def test_what_could_not_be_offered_is_offered_by_the_session_after(nodes: list[Node]) -> None:
    owner, reader, other = nodes
    await owner.put(b"kept")
    await owner.cut()
    reader.forbidden.add(JOBS)
    with pytest.raises(PublishRefused):
        await reader.queues.begin()
    await owner.reconnect()
    assert await other.take() == b"kept"


async def test_the_queues_of_a_former_session_are_offered_side_by_side(nodes: list[Node]) -> None:
    owner, _, other = nodes
    await owner.put(b"kept")
    await owner.queues.put("others", b"kept too", 100, 60.0)
    await owner.cut()
    again = asyncio.create_task(owner.reconnect(JOBS))  # no owner replies
    assert await other.queues.take("others") == b"kept too"
    assert not again.done()
    await owner.cut()
    with pytest.raises(DeliveryUnknown, match="The request to requeue was sent to the queue jobs"):
        await again
    await owner.reconnect()
    assert await other.take() == b"kept"


GARBAGE = {
    "nothing": b"",
    "text": b"home/hall/state on",
    "no list": encode(7),
    "half a list": encode(["put", "b", 1, b"x" * 50])[:20],
    "an empty list": encode([]),
    "lists without an end": b"\x91" * 100_000,
    "a verb that is none": encode([7, "b", 1, []]),
    "a verb of a newer version": encode(["dance", "b", 1, []]),
    "a node that is none": encode(["probe", 8, 1, []]),
    "a node that is a filter": encode(["take", "#", 1, [[1]]]),
    "a node that is no text": b"\x94\xa5probe\xa1\xff\x01\x90",
    "a number that is none": encode(["put", "b", "1", [b"x", 10, 60]]),
    "a message that is text": encode(["put", "b", 1, ["x", 10, 60]]),
    "too little": encode(["put", "b", 1, []]),
    "too much": encode(["probe", "b", 1, [2]]),
    "readers that are none": encode(["take", "b", 1, [[None]]]),
    "what was given back": encode(["requeue", "b", 1, [[[0.0, 60.0]]]]),
    "an answer without its message": encode(["message", "b", 1, ["jobs"]]),
    "a message that is no message": encode(["message", "b", 1, ["jobs", [0.0, 60.0, "x"]]]),
    "a message of a filter": encode(["message", "b", 1, ["#", [0.0, 60.0, b"x"]]]),
    "a hand-off of a filter": encode(["adopt", "b", 1, ["#", ["requeue", "b", 1, [[[0.0, 60.0, b"x"]]]]]]),
    "a hand-off of no request": encode(["adopt", "b", 1, ["jobs", ["bind", "#", 1, []]]]),
    "a prefix that is none": encode(["purge", "b", 1, [5]]),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_no_node_has_published_is_dropped_and_logged(
    nodes: list[Node], garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    owner, reader, other_client = nodes
    await acquaint(owner, reader)
    topics = [JOBS, *(NODES + name for name in (b"successors", b"purge", b"node/a", b"node/b"))]
    for topic in topics:
        await other_client.publish(topic, garbage)
    logged = [line for line in caplog.messages if "that was not published by this version of this package" in line]
    assert len(logged) >= len(topics) - 1, "some may be fit for one of them"
    taking = asyncio.create_task(reader.take())
    await owner.put(b"goes on")
    assert await taking == b"goes on"


async def test_forged_requests_are_logged_at_a_bounded_rate(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    owner, reader, other_client = nodes
    await acquaint(owner, reader)
    owner.forbidden.add(NODES + b"node/evil")
    for number in range(100):
        await other_client.publish(JOBS, encode(["put", "evil", number, [b"x", 200, 60.0]]))
        await other_client.publish(JOBS, encode(["put", "x" * 70_000, number, [b"x", 200, 60.0]]))
        await other_client.publish(JOBS, b"garbage")
    await until(lambda: not owner.queues.messaging._tasks)
    assert 1 <= len(caplog.records) <= 10
    assert all(len(line) < 1000 for line in caplog.messages)


async def test_garbage_for_a_candidate_is_dropped(nodes: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    candidate, other_client, _ = nodes
    candidate.ignored.add(OWNER)
    standing = asyncio.create_task(candidate.put(b"x"))
    await anyio.wait_all_tasks_blocked()
    await other_client.answer_for(candidate, "ask")
    await anyio.wait_all_tasks_blocked()
    await other_client.publish(JOBS, b"garbage")
    await other_client.answer_for(candidate, "claim")
    await standing
    assert (
        "Dropped a message on %nodes//queue/jobs that was not published by this version of this package" in caplog.text
    )
    assert await candidate.take() == b"x"


async def test_requests_that_come_during_an_election_wait_for_it(nodes: list[Node]) -> None:
    candidate, writer, _ = nodes
    candidate.ignored.add(OWNER)
    own = [asyncio.create_task(candidate.put(b"own")) for _ in range(2)]
    await anyio.wait_all_tasks_blocked()
    await writer.answer_for(candidate, "ask")
    await anyio.wait_all_tasks_blocked()
    writer.ignored.add(OWNER)
    other = asyncio.create_task(writer.put(b"another's"))
    await anyio.wait_all_tasks_blocked()
    assert not any(task.done() for task in (*own, other))
    writer.ignored.clear()
    await writer.answer_for(writer, "ask")
    await writer.answer_for(candidate, "claim")
    await asyncio.gather(*own, other)
    assert sorted([await writer.take() for _ in range(3)]) == [b"another's", b"own", b"own"]


async def test_what_is_undelivered_is_returned_once_by_a_node_that_leaves(nodes: list[Node]) -> None:
    owner, reader, other = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    await reader.disconnect()
    assert await other.take() == b"undelivered"
    assert not any(orphans for (address, _), orphans in handoff.orphaned_queues.items() if address == reader.address)


async def test_a_node_that_leaves_an_owner_that_does_not_answer_hands_off_its_own_queues(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.client._CLOSE_SECONDS", 0.1)
    mute, leaver, successor = nodes
    await mute.listen(b"$share/anyio/" + JOBS, no_reply)
    await leaver.queues.put("others", b"kept", 100, 60.0)
    await poll(leaver)
    leaving = asyncio.create_task(leaver.queues.close())
    await anyio.wait_all_tasks_blocked()
    leaver.queues._repeat()  # a second has passed
    await leaving
    assert b"others" in successor.queues.requests.elections.owners or b"others" in mute.queues.requests.elections.owners
    assert await successor.queues.take("others") == b"kept"


async def test_a_long_queue_is_handed_off_in_portions(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{QUEUES}.handoff._HAND_OFF_BYTES", 100)
    owner, reader, _ = nodes
    sent = [b"%d" % number * 60 for number in range(5)]
    for message in sent:
        await owner.put(message)
    await owner.queues.close()
    assert [await reader.take() for _ in sent] == sent


async def test_a_reader_is_announced_again_when_the_owner_leaves(nodes: list[Node]) -> None:
    owner, reader, writer = nodes
    await acquaint(owner, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    await owner.queues.close()
    await writer.put(b"second")
    assert await task == b"second"


async def test_a_reader_whose_owner_left_may_be_cancelled(nodes: list[Node]) -> None:
    owner, reader, writer = nodes
    await acquaint(owner, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    await owner.queues.close()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await writer.put(b"second")
    assert await reader.take() == b"second"


async def test_the_readers_of_a_queue_go_with_it_to_the_next_owner(nodes: list[Node]) -> None:
    owner, reader, successor = nodes
    await acquaint(owner, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    (number,) = reader_queue(reader).known
    await reader.queues.requests.leave()  # it gets no queues
    reader.ignored.add(JOBS)  # nor does it say again that it waits
    await owner.queues.close()
    await until(lambda: b"jobs" in successor.queues.requests.elections.owners)
    await until(lambda: successor.queues.requests.elections.owners[b"jobs"].readers == {("b", number): None})
    await successor.put(b"second")
    assert await task == b"second"


async def test_a_request_that_comes_late_to_a_node_goes_on_to_the_owner(nodes: list[Node]) -> None:
    """The broker may have had it on its way when the node gave up its election."""
    owner, reader, late = nodes
    await acquaint(owner, reader)
    reader.ignored.add(JOBS)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    (number,) = reader_queue(reader).known
    late.queues.requests._forward(b"jobs", Message("take", reader.node, 0, ([number],)))
    await owner.put(b"second")
    assert await task == b"second"


async def test_a_purge_takes_what_is_undelivered_too(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    await until(lambda: undelivered(reader))
    await owner.queues.purge("job")
    reader.ignored.clear()
    await owner.put(b"later")
    assert await reader.take() == b"later"


async def test_a_purge_spares_what_is_undelivered_of_other_queues(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await send_undelivered(owner, reader)
    await until(lambda: undelivered(reader))
    await owner.queues.purge("others")
    reader.ignored.clear()
    assert await reader.take() == b"undelivered"


# ---- one owner ---------------------------------------------------------------------------------------------------


class OwnerDriver(Messaging):
    """An owner of the queue ``jobs``, whose background tasks run when the test says."""

    def __init__(self, node: Node, gone: str = "") -> None:
        super().__init__(node, lambda reply: None)
        self.gone = gone
        self.replies: list[tuple[str, int, str]] = []
        self.work: list[Coroutine[Any, Any, object]] = []
        self.owner = QueueOwner(b"jobs", self)

    async def reply(self, node: str, number: int, kind: str, *values: Any) -> bool:
        if node == self.gone:
            return False
        self.replies.append((node, number, kind))
        return True

    def start_soon(self, work: Coroutine[Any, Any, object]) -> None:
        self.work.append(work)

    async def do(self) -> None:
        while self.work:
            await self.work.pop(0)

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.owner.store.clear()]


async def test_a_request_that_comes_again_is_done_once(nodes: list[Node]) -> None:
    driver = OwnerDriver(nodes[0])
    bind = Message("bind", "b", 1, [[("news", 10, 60.0, 60.0)]])
    driver.owner.handle(bind)
    driver.owner.handle(bind)  # while it is being done
    await driver.do()
    assert driver.replies == [("b", 1, "ok")]
    driver.owner.handle(bind)
    await driver.do()
    assert driver.replies == [("b", 1, "ok")] * 2


async def test_only_so_many_requests_are_remembered(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{QUEUES}.owner._REMEMBERED_REQUESTS", 2)
    driver = OwnerDriver(nodes[0])
    for number in (1, 2, 3, 3, 2):
        driver.owner.handle(Message("put", "b", number, [b"%d" % number, 10, 60.0]))
    await driver.do()
    assert driver.payloads() == [b"1", b"2", b"3"]
    assert len(driver.owner._replies) == 2


async def test_what_comes_from_a_group_after_its_unbinding_is_no_message(nodes: list[Node]) -> None:
    driver = OwnerDriver(nodes[0])
    driver.owner.handle(Message("bind", "b", 1, [[("news", 10, 60.0, 60.0)]]))
    await driver.do()
    handler = nodes[0].table[-1][1].handler
    assert handler is not None
    handler(b"new")
    driver.owner.handle(Message("unbind", "b", 2, ["news"]))
    await driver.do()
    handler(b"late")  # it was on its way already
    await driver.do()
    assert driver.payloads() == [b"new"]


async def test_what_comes_from_a_group_ends_a_binding_that_has_expired(nodes: list[Node]) -> None:
    driver = OwnerDriver(nodes[0])
    driver.owner.handle(Message("bind", "b", 1, [[("news", 10, 60.0, 0.0)]]))
    await driver.do()
    handler = nodes[0].table[-1][1].handler
    assert handler is not None
    handler(b"late")
    await driver.do()
    assert driver.payloads() == []
    assert not driver.owner.bindings


async def test_what_comes_from_a_group_is_encrypted_for_the_queue(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    def reencrypt(payload: bytes, group: str, queue: str, expiry: float) -> bytes:
        if payload == b"copied":
            raise DecodeError("it is a copy")
        return b"%b from %b for %b, %d s" % (payload, group.encode(), queue.encode(), expiry)

    nodes[0].reencrypt = reencrypt
    driver = OwnerDriver(nodes[0])
    driver.owner.handle(Message("bind", "b", 1, [[("news", 10, 60.0, 60.0)]]))
    await driver.do()
    handler = nodes[0].table[-1][1].handler
    assert handler is not None
    handler(b"copied")
    handler(b"new")
    assert driver.payloads() == [b"new from news for jobs, 60 s"]
    assert caplog.messages == ["Dropped a message of group news for queue jobs: it is a copy"]


async def test_a_node_that_is_gone_waits_no_longer(nodes: list[Node]) -> None:
    driver = OwnerDriver(nodes[0], gone="gone")
    for node, number in (("gone", 1), ("here", 2), ("gone", 3)):
        driver.owner.handle(Message("take", node, 0, [[number]]))
    driver.owner.handle(Message("put", "b", 1, [b"x", 10, 60.0]))
    await driver.do()
    assert driver.replies == [("b", 1, "ok"), ("here", 2, "message")]
    assert not driver.owner.readers


# ---- who owns a queue --------------------------------------------------------------------------------------------


def route_of(node: Node) -> Any:
    return node.queues.requests.elections._routes[b"jobs"]


def owns(node: Node) -> bool:
    return b"jobs" in node.queues.requests.elections.owners


def repeat(node: Node, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """What a node does each second, with other times."""
    with monkeypatch.context() as patched:
        for name, value in seconds.items():
            patched.setattr(f"{QUEUES}.election._{name.upper()}_SECONDS", value)
        node.queues.requests.elections.repeat()


async def test_a_queue_that_nobody_uses_is_forgotten_everywhere(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await owner.queues.put("jobs", b"expires", 10, 0.001)
    await until(lambda: not owner.queues.requests.elections.owners[b"jobs"].is_used())
    for node in (owner, reader):
        repeat(node, monkeypatch, idle=0.0)
    await until(lambda: not owns(owner))
    repeat(owner, monkeypatch, idle=0.0)
    await until(lambda: not owner.queues.requests.elections._routes)
    await until(lambda: not reader.queues.requests.elections._routes)
    assert not owner.retained
    assert not [each for _, each in owner.table if b"jobs" in each.topic_filter]
    await acquaint(reader, owner)


@pytest.mark.parametrize("used", ["a message", "a reader", "a binding"])
async def test_a_queue_in_use_is_not_forgotten(nodes: list[Node], used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    jobs = owner.queues.requests.elections.owners[b"jobs"]
    if used == "a message":
        await owner.put(b"second")
    elif used == "a reader":
        taking = asyncio.create_task(reader.take())
        await until(lambda: jobs.readers)
    else:
        await reader.queues.bind("news", "jobs", 10, 60.0, 60.0)
    repeat(owner, monkeypatch, idle=0.0)
    await anyio.wait_all_tasks_blocked()
    assert owns(owner)
    if used == "a reader":
        await owner.put(b"second")
        assert await taking == b"second"


async def test_a_binding_that_has_expired_keeps_no_queue(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    owner, _, _ = nodes
    await owner.queues.bind("news", "jobs", 10, 60.0, 0.0)
    repeat(owner, monkeypatch, idle=0.0)
    await until(lambda: not owns(owner))
    assert not [each for _, each in owner.table if each.topic_filter.endswith(b"news")]


async def test_an_announcement_is_repeated(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    owner.retained.clear()
    repeat(owner, monkeypatch, repeat=0.0)
    await until(lambda: OWNER in owner.retained)


async def test_what_a_dead_owner_has_left_is_forgotten(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    await owner.cut()
    await reader.publish(NODES + b"presence", encode(["gone", "a", 0, []]))
    await until(lambda: route_of(reader).owner is None)
    assert OWNER in reader.retained
    repeat(reader, monkeypatch, idle=0.0)
    await until(lambda: not reader.retained)


async def test_an_owner_that_is_quiet_is_asked(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    route = route_of(reader)
    before = route.confirmed_at
    repeat(reader, monkeypatch, ask=0.0)
    await until(lambda: route.confirmed_at > before)
    assert route.silent_since is None
    owner.ignored.add(OWNER)
    repeat(reader, monkeypatch, ask=0.0)
    await until(lambda: route.silent_since)
    repeat(reader, monkeypatch, silence=0.0)
    assert route.owner is None


async def two_owners(nodes: list[Node]) -> None:
    """As after an election at a broker that does not keep the order."""
    first, second, _ = nodes
    await acquaint(first, second)
    await first.put(b"at the first")
    route_of(second).set_owner(None)
    first.ignored.add(OWNER)
    await second.queues.requests.elections.find_owner(b"jobs")
    first.ignored.clear()
    assert owns(first)
    assert owns(second)


@pytest.mark.parametrize("announced", [0, 1])
async def test_of_two_owners_one_hands_off_to_the_other(
    nodes: list[Node], announced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_owners(nodes)
    first, second, third = nodes
    second.queues.requests.elections.owners[b"jobs"].store.put(b"at the second", 10, 60.0)
    repeat(nodes[announced], monkeypatch, repeat=0.0)
    await until(lambda: not owns(second))
    assert owns(first)
    assert sorted([await third.take(), await third.take()]) == [b"at the first", b"at the second"]
    assert third.retained[OWNER].startswith(encode(["owner", "a"])[:8].replace(b"\x92", b"\x94"))


async def test_a_queue_is_given_up_once(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    elections = owner.queues.requests.elections
    given_up = await asyncio.gather(elections.give_up(b"jobs"), elections.give_up(b"jobs"))
    assert [each is None for each in given_up] == [False, True]


async def test_a_hand_off_of_a_queue_that_is_gone_does_nothing(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    await acquaint(owner, reader)
    hand_offs = owner.queues._hand_offs
    await asyncio.gather(hand_offs._hand_off(b"jobs"), hand_offs._hand_off(b"jobs"))
    await acquaint(reader, owner)


async def test_what_was_retained_for_a_former_session_says_nothing(nodes: list[Node]) -> None:
    owner, reader, _ = nodes
    owner.retained[OWNER] = encode(["owner", "a", 1, []])
    await acquaint(owner, reader)
    assert owns(owner)


async def test_a_dead_node_is_not_sent_anything_while_all_topics_are_subscribed(nodes: list[Node]) -> None:
    owner, dead, reader = nodes
    await acquaint(owner, dead)
    task = asyncio.create_task(dead.take())
    await until(lambda: owner.queues.requests.elections.owners[b"jobs"].readers)
    await reader.listen(NODES + b"node/b", no_reply)  # so the broker does not say that nobody gets it
    await dead.cut()
    with pytest.raises(ListenerClosed):
        await task
    await reader.publish(NODES + b"presence", encode(["gone", "b", 0, []]))
    await until(lambda: not owner.queues.requests.elections.owners[b"jobs"].readers)
    owner.queues.requests.elections.owners[b"jobs"].readers[("b", 7)] = None  # announced at the same moment
    await owner.put(b"second")
    assert await reader.take() == b"second"
    await dead.reconnect()
    task = asyncio.create_task(dead.take())
    await until(lambda: owner.queues.requests.elections.owners[b"jobs"].readers)
    await owner.put(b"third")
    assert await task == b"third"


async def test_only_so_many_dead_nodes_are_remembered(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{QUEUES}.messaging._REMEMBERED_NODES", 2)
    one, other, _ = nodes
    for name in ("x", "y", "z", "a"):
        await other.publish(NODES + b"presence", encode(["gone", name, 0, []]))
    await until(lambda: list(one.queues.messaging._presence) == ["y", "z"])


async def test_a_broker_that_does_not_let_a_node_read_is_named(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.election._ECHO_SECONDS", 0.01)
    nodes[0].ignored.add(OWNER)
    with pytest.raises(SubscriptionRefused, match=r"the owner of queue jobs\. Check .* read and write the topics"):
        await nodes[0].put(b"x")


async def test_a_node_that_leaves_does_not_wait_long_for_a_successor(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{QUEUES}.election._ADOPTION_SECONDS", 0.01)
    owner, reader, logger = nodes
    await acquaint(owner, reader)
    await owner.put(b"kept")
    for node in (reader, logger):
        await node.cut()
    await logger.reconnect()
    logger.table[:] = [entry for entry in logger.table if entry[0] is not logger]
    await logger.listen(NODES + b"successors", no_reply)
    await owner.disconnect()
    await reader.reconnect()
    assert await reader.take() == b"kept"


async def test_a_claim_that_came_late_changes_no_owner(nodes: list[Node]) -> None:
    owner, reader, late = nodes
    await acquaint(owner, reader)
    await late.publish(OWNER, encode(["claim", "c", 7, []]), retain=True)
    await late.publish(OWNER, encode(["vacant", "c", 7, []]))
    assert route_of(reader).owner == "a"
    await until(lambda: late.retained[OWNER] == encode(["owner", "a", owner.queues.requests.elections._number, []]))


async def test_a_node_that_leaves_knows_no_owner_of_what_it_has_not_used(nodes: list[Node]) -> None:
    leaver, other, _ = nodes
    await leaver.queues.requests.leave()
    await other.listen(NODES + b"successors", no_reply)
    with pytest.raises(ListenerClosed, match="there is no other node"):
        await leaver.put(b"x")


async def test_what_comes_to_a_node_that_has_left_goes_to_another_reader(nodes: list[Node]) -> None:
    """Its task still waits, and a client that subscribes to everything hides that nobody gets it."""
    owner, leaver, reader = nodes
    await acquaint(owner, leaver)
    waiting = asyncio.create_task(leaver.take())
    await until(lambda: owner.queues.requests.elections.owners[b"jobs"].readers)
    await leaver.queues.close()
    await until(lambda: not owner.queues.requests.elections.owners[b"jobs"].readers)
    leaver.queues._repeat()  # a second has passed
    await anyio.wait_all_tasks_blocked()
    assert not owner.queues.requests.elections.owners[b"jobs"].readers
    await owner.queues.messaging.reply("b", 1, "message", "jobs", (0.0, 60.0, b"came late"))
    assert not waiting.done()
    owner.queues.requests.elections.owners[b"jobs"].readers[("b", 7)] = None  # an announcement that was on its way
    await owner.put(b"second")
    assert await reader.take() == b"second"
    waiting.cancel()


async def test_a_message_that_a_node_got_no_more_is_returned_when_it_is_known(nodes: list[Node]) -> None:
    owner, dead, reader = nodes
    await acquaint(owner, dead)
    publish = owner.publish

    async def publish_meanwhile(topic: bytes, payload: bytes, **options: Any) -> int:
        if topic == NODES + b"node/b":
            await reader.publish(NODES + b"presence", encode(["gone", "b", 0, []]))
        return await publish(topic, payload, **options)

    owner.publish = publish_meanwhile  # type: ignore[method-assign]
    owner.queues.requests.elections.owners[b"jobs"].readers[("b", 7)] = None
    dead.queues._readers.receive = lambda reply: None  # type: ignore[method-assign]
    await owner.put(b"second")
    assert await reader.take() == b"second"


async def test_a_request_that_comes_during_an_election_is_passed_on(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate, writer, _ = nodes
    candidate.ignored.add(OWNER)
    own = asyncio.create_task(candidate.put(b"own"))
    await anyio.wait_all_tasks_blocked()
    await writer.answer_for(candidate, "ask")
    await anyio.wait_all_tasks_blocked()
    await writer.publish(JOBS, encode(["put", "b", 1, [b"other's", 10, 60.0]]))
    repeat(candidate, monkeypatch, idle=0.0)
    await writer.answer_for(candidate, "claim")
    await own
    assert sorted([await candidate.take(), await candidate.take()]) == [b"other's", b"own"]


async def test_an_answer_that_comes_late_or_twice_changes_nothing() -> None:
    future = asyncio.get_running_loop().create_future()
    for answer in (1, 2):
        resolve(future, answer)
    assert await future == 1
