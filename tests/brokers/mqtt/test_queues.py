"""Queues between nodes whose broker is a table: moments between two messages that a real one passes too quickly."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from django_anyio_channels import DeliveryUnknown, ListenerClosed, PublishRefused
from django_anyio_channels.brokers.mqtt.packets import NO_MATCHING_SUBSCRIBERS, Publish
from django_anyio_channels.brokers.mqtt.queues import (
    client as mqtt_queues,
)
from django_anyio_channels.brokers.mqtt.queues import (
    owner as mqtt_keeper,
)
from django_anyio_channels.brokers.mqtt.queues import (
    readers as mqtt_readers,
)
from django_anyio_channels.brokers.mqtt.queues.client import MQTTQueues
from django_anyio_channels.brokers.mqtt.queues.owner import Keeper
from django_anyio_channels.brokers.mqtt.queues.protocol import Request, encode
from django_anyio_channels.brokers.mqtt.queues.store import Store, Stored
from django_anyio_channels.brokers.mqtt.topics import to_topic
from tests.support.layers import TIME_LIMIT

pytestmark = pytest.mark.anyio

JOBS = b"%queue/jobs"
Handle = Callable[[Publish], None]


@dataclass
class Node:
    """One node's wire to the table, and its queues."""

    node: str
    table: list[tuple[Node, bytes, Handle]]
    dead: bool = False
    ignored: set[bytes] = field(default_factory=set)
    """SubscriptionRegistry to which what this node sends is accepted and lost."""
    forbidden: set[bytes] = field(default_factory=set)
    """SubscriptionRegistry that the broker lets this node not write."""

    def __post_init__(self) -> None:
        self.address = f"table {id(self.table)}"
        self.queues = MQTTQueues(self)

    async def listen(self, topic_filter: bytes, handle: Handle) -> None:
        await self._round_trip()
        self.table.append((self, topic_filter, handle))

    async def stop_listening(self, topic_filter: bytes) -> None:
        await self._round_trip()
        self.table[:] = [entry for entry in self.table if entry[:2] != (self, topic_filter)]

    async def send(self, topic: bytes, payload: bytes) -> int:
        await self._round_trip()
        if topic in self.ignored:
            return 0
        if topic in self.forbidden:
            raise PublishRefused(f"not allowed to write {topic.decode()}")
        handles: dict[tuple[str | None, bytes], Handle] = {}
        for owner, topic_filter, handle in self.table:
            if topic_filter.removeprefix(b"$share/anyio/") == topic:
                key = (None if topic_filter.startswith(b"$share") else owner.node, topic_filter)
                handles.setdefault(key, handle)
        for handle in handles.values():
            handle(Publish(topic, payload, 1, 1, ()))
        return 0 if handles else NO_MATCHING_SUBSCRIBERS

    @property
    def largest_packet(self) -> int:
        return 1_000_000

    def filter_of(self, group: str) -> bytes:
        return to_topic(group)

    def frame_of(self, group: str, message: Publish) -> bytes | None:
        return message.payload

    async def _round_trip(self) -> None:
        self._check()
        await anyio.lowlevel.checkpoint()
        self._check()

    def _check(self) -> None:
        if self.dead:
            raise ListenerClosed("the plug was pulled")

    async def put(self, message: bytes) -> None:
        await self.queues.put("jobs", message, 100, 60.0)

    async def take(self) -> bytes:
        return await self.queues.take("jobs")

    async def pull_the_plug(self) -> None:
        self.dead = True
        self.table[:] = [entry for entry in self.table if entry[0] is not self]
        self.queues.end()
        await self.queues.finished()

    async def come_back(self) -> None:
        self.dead = False
        self.ignored.clear()
        await self.queues.begin()


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    """Three nodes of one table."""
    table: list[tuple[Node, bytes, Handle]] = []
    made = [Node(name, table) for name in "abc"]
    with anyio.fail_after(TIME_LIMIT):
        for node in made:
            await node.queues.begin()
        yield made
        for node in made:
            await node.pull_the_plug()


async def acquaint(keeper: Node, reader: Node) -> None:
    """From now on the one keeps the queue, and the other has read from it."""
    await keeper.put(b"first")
    assert await reader.take() == b"first"


async def poll(reader: Node) -> None:
    """A reader comes, waits in vain, and goes."""
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def strand(keeper: Node, reader: Node) -> None:
    """Have the keeper send a message to a reader that has gone without the keeper's knowledge."""
    await poll(reader)
    await keeper.put(b"stranded")


def line_of(reader: Node) -> Any:
    return reader.queues._readers._lines[b"jobs"]


def stranded(reader: Node) -> int:
    """How many messages lie at a node that nobody there waits for."""
    return len(line_of(reader).stranded)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.sleep(0.002)


# ---- a life that ends in the middle ------------------------------------------------------------------------------


async def test_a_keeper_that_does_not_answer_is_not_waited_for_for_ever(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_queues, "_PATIENCE_SECONDS", 0.01)
    mute, writer, _ = nodes
    await mute.listen(b"$share/anyio/" + JOBS, lambda request: None)
    with pytest.raises(DeliveryUnknown, match=r"The queue jobs was asked to put.* within 0\.01 s; it may or may not"):
        await writer.put(b"x")


async def test_a_keeper_whose_answer_was_lost_is_asked_again(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_queues, "_AGAIN_SECONDS", 0.02)
    keeper, writer, reader = nodes
    await acquaint(keeper, reader)
    requests: list[Publish] = []
    await reader.listen(JOBS, requests.append)
    keeper.ignored.add(b"%node/b")
    task = asyncio.create_task(writer.put(b"once"))
    await until(lambda: len(requests) >= 2)
    keeper.ignored.clear()
    await task
    assert await reader.take() == b"once"
    # What is answered twice is done once.
    await until(lambda: not writer.queues._questions)
    writer.queues._receive_answer(1_000_000, ["done"])
    await keeper.put(b"last")
    assert await reader.take() == b"last"


async def test_a_life_that_ends_while_a_reader_comes_ends_its_waiting(nodes: list[Node]) -> None:
    reader = nodes[0]
    for steps in range(12):
        task = asyncio.create_task(reader.take())
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        await reader.pull_the_plug()
        with pytest.raises(ListenerClosed):
            await task
        await reader.come_back()


def test_what_had_not_begun_when_the_event_loop_ends_is_left_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise AssertionError("it must not begin")

    async def main() -> None:
        node = Node("one", [])
        node.queues._spawn(work())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as the end of the event loop does

    asyncio.run(main())
    gc.collect()
    assert not caplog.records


async def test_a_mistake_is_told_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ZeroDivisionError("a mistake")

    Node("one", []).queues._spawn(work())
    await until(lambda: "a mistake" in caplog.text)
    assert caplog.records[-1].exc_info


async def test_a_life_that_ends_during_an_election_ends_the_call(nodes: list[Node]) -> None:
    candidate = nodes[0]
    candidate.ignored.add(b"%claim/jobs")
    task = asyncio.create_task(candidate.put(b"x"))
    await anyio.wait_all_tasks_blocked()
    assert not task.done()
    await candidate.pull_the_plug()
    with pytest.raises(ListenerClosed, match="the plug was pulled"):
        await task


async def test_what_has_stranded_when_a_life_ends_is_offered_in_the_next(nodes: list[Node]) -> None:
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    await reader.pull_the_plug()
    await reader.come_back()
    assert await keeper.take() == b"stranded"


async def test_what_cannot_be_sent_back_is_offered_in_the_next_life(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mqtt_readers, "_LINGER_SECONDS", 0.05)
    caplog.set_level("DEBUG")
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    reader.dead = True  # the queues learn of it only by trying
    await until(lambda: "Left undone: the plug was pulled" in caplog.text)
    await reader.pull_the_plug()
    await reader.come_back()
    assert await keeper.take() == b"stranded"


async def test_nothing_goes_on_when_a_life_is_finished(nodes: list[Node]) -> None:
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await poll(reader)
    reader.queues._readers._end_linger(b"jobs", line_of(reader))
    assert reader.queues._tasks, "the keeper is being told"
    await reader.pull_the_plug()
    assert not reader.queues._tasks


# ---- readers that come and go ------------------------------------------------------------------------------------


async def test_polling_costs_no_packets(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_readers, "_LINGER_SECONDS", 60.0)
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await poll(reader)
    (number,) = line_of(reader).asked
    reader.ignored.add(JOBS)  # whatever it says from now on is lost
    for _ in range(10):
        await poll(reader)
    assert list(line_of(reader).asked) == [number]
    await keeper.put(b"second")
    assert await reader.take() == b"second"


async def test_who_looks_in_now_and_then_without_waiting_gets_what_came(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_readers, "_LINGER_SECONDS", 0.0)
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await keeper.put(b"second")
    taken = None
    while taken is None:
        with anyio.move_on_after(0):
            taken = await reader.take()
        await anyio.sleep(0.02)  # so often it looks
    assert taken == b"second"


async def test_what_nobody_comes_for_goes_back_and_leaves_nothing_behind(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_readers, "_LINGER_SECONDS", 0.0)
    monkeypatch.setattr(mqtt_readers, "_RARELY_SECONDS", 0.02)
    keeper, reader, other = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    assert await other.take() == b"stranded"
    await until(lambda: not reader.queues._readers._lines)


async def test_the_keeper_is_told_of_a_reader_that_does_not_come_back(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_readers, "_LINGER_SECONDS", 0.0)
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    store = keeper.queues._keepers[b"jobs"].store
    task = asyncio.create_task(reader.take())
    await until(store.readers)
    task.cancel()
    await until(lambda: not store.readers())


async def test_who_comes_while_messages_go_back_is_not_forgotten(nodes: list[Node]) -> None:
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    await until(lambda: stranded(reader))
    line = line_of(reader)
    returning = asyncio.create_task(reader.queues._readers._return(b"jobs", line))
    await anyio.lowlevel.checkpoint()
    assert line.returning
    task = asyncio.create_task(reader.take())
    await anyio.lowlevel.checkpoint()
    (number,) = line.asked
    reader.queues._readers.arrive(b"jobs", Stored(0.0, b"meanwhile", float("inf")), number)
    reader.queues._readers._end_linger(b"jobs", line)
    await returning
    assert sorted([await task, await reader.take()]) == [b"meanwhile", b"stranded"]


async def test_what_a_reader_was_given_outlives_it_and_the_life(nodes: list[Node]) -> None:
    """The message was given to a task, then the life ended, and then the task was cancelled before it ran."""
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    (number,) = line_of(reader).asked
    reader.queues._readers.arrive(b"jobs", Stored(0.0, b"given", float("inf")), number)
    reader.queues.end()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await reader.come_back()
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
    await until(lambda: "not allowed to write %queue/jobs" in caplog.text)


# ---- a polite goodbye --------------------------------------------------------------------------------------------


async def test_the_next_node_of_the_process_gets_what_nobody_took(nodes: list[Node]) -> None:
    for node in nodes[1:]:
        await node.pull_the_plug()
    keeper = nodes[0]
    await keeper.put(b"kept")
    await keeper.queues.leave()
    keeper.queues.end()
    next_node = Node("d", keeper.table)
    next_node.address = keeper.address
    await next_node.queues.begin()
    assert await next_node.take() == b"kept"


async def test_what_could_not_be_offered_is_offered_by_the_life_after(nodes: list[Node]) -> None:
    keeper, reader, other = nodes
    await keeper.put(b"kept")
    await keeper.pull_the_plug()
    reader.forbidden.add(JOBS)
    with pytest.raises(PublishRefused):
        await reader.queues.begin()
    await keeper.come_back()
    assert await other.take() == b"kept"


async def test_the_queues_of_a_former_life_are_offered_side_by_side(nodes: list[Node]) -> None:
    keeper, _, other = nodes
    await keeper.put(b"kept")
    await keeper.queues.put("others", b"kept too", 100, 60.0)
    await keeper.pull_the_plug()
    keeper.dead = False
    keeper.ignored.add(JOBS)  # nobody answers
    again = asyncio.create_task(keeper.queues.begin())
    assert await other.queues.take("others") == b"kept too"
    assert not again.done()
    await keeper.pull_the_plug()
    with pytest.raises(DeliveryUnknown, match="The queue jobs was asked to back"):
        await again
    await keeper.come_back()
    assert await other.take() == b"kept"


GARBAGE = {
    "nothing": b"",
    "text": b"home/hall/state on",
    "no list": encode(7),
    "half a list": encode(["put", "b", 1, b"x" * 50])[:20],
    "an empty list": encode([]),
    "a verb that is none": encode([7, "b", 1]),
    "a node that is none": encode(["hello", 8, 1]),
    "a node that is a filter": encode(["take", "#", 1, [1]]),
    "a number that is none": encode(["put", "b", "1", b"x", 10, 60]),
    "a message that is text": encode(["put", "b", 1, "x", 10, 60]),
    "too little": encode(["put", "b", 1]),
    "too much": encode(["hello", "b", 1, 2]),
    "readers that are none": encode(["take", "b", 1, [None]]),
    "what was given back": encode(["back", "b", 1, [[0.0, 60.0]]]),
    "an answer of no kind": encode([1, "dance"]),
    "an answer without its message": encode([1, "message", b"jobs"]),
    "a message that is no message": encode([1, "message", b"jobs", [0.0, 60.0, "x"]]),
    "a legacy of a filter": encode(["b", 1, b"#", [[0.0, 60.0, b"x"]], []]),
    "a legacy of no name": encode(["b", 1, b"\xff", [], []]),
    "a prefix that is none": encode([5]),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_no_node_said_is_dropped_and_told(
    nodes: list[Node], garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, reader, stranger = nodes
    await acquaint(keeper, reader)
    topics = [JOBS, b"%heirs", b"%purge", b"%node/a", b"%node/b"]
    for topic in topics:
        await stranger.send(topic, garbage)
    told = [line for line in caplog.messages if "where only nodes speak" in line]
    assert len(told) >= len(topics) - 1, "some may be fit for one of them"
    taking = asyncio.create_task(reader.take())
    await keeper.put(b"goes on")
    assert await taking == b"goes on"


async def test_garbage_for_a_candidate_is_dropped(nodes: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    candidate, stranger, _ = nodes
    candidate.ignored.add(b"%claim/jobs")
    standing = asyncio.create_task(candidate.put(b"x"))
    await anyio.wait_all_tasks_blocked()
    await stranger.send(JOBS, b"garbage")
    await stranger.send(b"%claim/jobs", b"a")
    await standing
    assert "Dropped what somebody else published to %queue/jobs" in caplog.text
    assert await candidate.take() == b"x"


async def test_whether_somebody_sees_everything_is_not_known_without_a_link(nodes: list[Node]) -> None:
    [first, *_] = nodes
    await first.pull_the_plug()
    assert not await first.queues._is_watched()


async def test_what_has_stranded_is_given_back_once_by_who_leaves(nodes: list[Node]) -> None:
    keeper, reader, other = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    await reader.queues.leave()
    reader.queues.end()
    assert await other.take() == b"stranded"
    assert mqtt_queues._legacies.get(reader.address, []) == []


async def test_who_leaves_a_keeper_that_does_not_answer_hands_over_its_own_queues(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_queues, "_LEAVE_SECONDS", 0.1)
    mute, leaver, heir = nodes
    await mute.listen(b"$share/anyio/" + JOBS, lambda request: None)
    await leaver.queues.put("others", b"kept", 100, 60.0)
    await poll(leaver)
    leaving = asyncio.create_task(leaver.queues.leave())
    await anyio.wait_all_tasks_blocked()
    leaver.queues._ask_again()  # a second has passed
    await leaving
    assert b"others" in heir.queues._keepers or b"others" in mute.queues._keepers
    assert await heir.queues.take("others") == b"kept"


async def test_a_long_queue_is_handed_over_in_portions(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_queues, "_LEGACY_BYTES", 100)
    keeper, reader, _ = nodes
    sent = [b"%d" % number * 60 for number in range(5)]
    for message in sent:
        await keeper.put(message)
    await keeper.queues.leave()
    assert [await reader.take() for _ in sent] == sent


async def test_a_reader_asks_again_when_the_keeper_leaves(nodes: list[Node]) -> None:
    keeper, reader, writer = nodes
    await acquaint(keeper, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    await keeper.queues.leave()
    await writer.put(b"second")
    assert await task == b"second"


async def test_a_reader_that_is_told_to_ask_again_may_be_cancelled(nodes: list[Node]) -> None:
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    (number,) = line_of(reader).asked
    reader.queues._receive_answer(number, ["again"])
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await keeper.put(b"second")
    assert await reader.take() == b"second"


async def test_only_the_queue_whose_keeper_left_is_asked_for_again(nodes: list[Node]) -> None:
    keeper, reader, other = nodes
    await acquaint(keeper, reader)
    await other.queues.put("others", b"first", 100, 60.0)
    assert await reader.queues.take("others") == b"first"
    tasks = [asyncio.create_task(reader.queues.take(queue)) for queue in ("others", "jobs")]
    await anyio.wait_all_tasks_blocked()
    (number,) = line_of(reader).asked
    reader.queues._receive_answer(number, ["again"])
    await keeper.put(b"second")
    assert await tasks[1] == b"second"
    await other.queues.put("others", b"second", 100, 60.0)
    assert await tasks[0] == b"second"


async def test_a_request_that_comes_late_to_a_node_goes_on_to_the_keeper(nodes: list[Node]) -> None:
    """The broker may have had it on its way when the node gave up its candidacy."""
    keeper, reader, late = nodes
    await acquaint(keeper, reader)
    reader.ignored.add(mqtt_queues._REQUESTS + JOBS)
    task = asyncio.create_task(reader.take())
    await anyio.wait_all_tasks_blocked()
    (number,) = line_of(reader).asked
    late.queues._on_request(JOBS, encode(["take", reader.node, 0, [number]]))
    await keeper.put(b"second")
    assert await task == b"second"


async def test_a_purge_takes_what_has_stranded_too(nodes: list[Node]) -> None:
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    await until(lambda: stranded(reader))
    await keeper.queues.purge("job")
    reader.ignored.clear()
    await keeper.put(b"later")
    assert await reader.take() == b"later"


async def test_a_purge_spares_what_has_stranded_of_other_queues(nodes: list[Node]) -> None:
    keeper, reader, _ = nodes
    await acquaint(keeper, reader)
    await strand(keeper, reader)
    await until(lambda: stranded(reader))
    await keeper.queues.purge("others")
    reader.ignored.clear()
    assert await reader.take() == b"stranded"


# ---- one keeper --------------------------------------------------------------------------------------------------


class Desk:
    """A keeper of the queue ``jobs``; what it wants done beside is done when the test says."""

    def __init__(self, wire: Node) -> None:
        self.answers: list[tuple[str, int, list[Any]]] = []
        self.work: list[Coroutine[Any, Any, None]] = []
        self.keeper = Keeper(b"jobs", wire, self.answer, self.work.append)

    async def answer(self, node: str, number: int, answer: list[Any]) -> bool:
        self.answers.append((node, number, answer))
        return True

    async def do(self) -> None:
        while self.work:
            await self.work.pop(0)

    def messages(self) -> list[bytes]:
        return [stored.message for stored in self.keeper.store.clear()]


async def test_a_request_that_comes_again_is_done_once(nodes: list[Node]) -> None:
    desk = Desk(nodes[0])
    bind: Request = ("bind", "b", 1, [[("news", 10, 60.0, 60.0)]])
    desk.keeper.handle(bind)
    desk.keeper.handle(bind)  # while it is being done
    await desk.do()
    assert desk.answers == [("b", 1, ["ok"])]
    desk.keeper.handle(bind)
    await desk.do()
    assert desk.answers == [("b", 1, ["ok"])] * 2


async def test_only_so_many_requests_are_remembered(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_keeper, "_REMEMBERED", 2)
    desk = Desk(nodes[0])
    for number in (1, 2, 3, 3, 2):
        desk.keeper.handle(("put", "b", number, [b"%d" % number, 10, 60.0]))
    await desk.do()
    assert desk.messages() == [b"1", b"2", b"3"]
    assert len(desk.keeper._done) == 2


async def test_a_request_of_a_newer_node_is_reported(nodes: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    Desk(nodes[0]).keeper.handle(("dance", "b", 1, []))
    assert "A node asked the queue jobs for 'dance', which it does not know" in caplog.text


async def test_what_comes_from_a_group_after_its_unbinding_is_no_message(nodes: list[Node]) -> None:
    desk = Desk(nodes[0])
    desk.keeper.handle(("bind", "b", 1, [[("news", 10, 60.0, 60.0)]]))
    await desk.do()
    handle = nodes[0].table[-1][2]
    news = Publish(b"news", b"new", 1, 1, ())
    handle(news)
    desk.keeper.handle(("unbind", "b", 2, ["news"]))
    await desk.do()
    handle(news)  # it was on its way already
    await desk.do()
    assert desk.messages() == [b"new"]


def test_a_node_that_has_gone_waits_no_longer() -> None:
    store = Store()
    for reader in (("gone", 1), ("here", 2), ("gone", 3)):
        store.wait(reader)
    store.stop_node("gone")
    assert store.readers() == [("here", 2)]
