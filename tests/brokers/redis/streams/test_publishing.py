"""Several who publish to groups with a history at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync

from django_anyio_channels import ChannelLayerError, DeliveryUnknown, PublishResult, RedisStreamsChannelLayer
from tests.brokers.redis.conftest import becomes_true
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio


@pytest.fixture
async def layer(own_server: brokers.Redis) -> AsyncIterator[RedisStreamsChannelLayer]:
    made = RedisStreamsChannelLayer(brokers.with_streams(own_server.url))
    made.set_scope("")
    await made.connect()
    await made.subscribe("room")
    await made.publish("room", b"the server knows the script")
    await made.next_published()
    yield made
    await made.disconnect()


async def test_a_position_says_when_the_server_got_the_message(
    layer: RedisStreamsChannelLayer, own_server: brokers.Redis
) -> None:
    def server_time() -> float:
        seconds, microseconds = own_server.ask("TIME")
        return int(seconds) + int(microseconds) / 1e6

    before = server_time()
    result = await layer.publish("room", b"1")
    assert result.position is not None
    assert before - 0.001 <= layer.published_at(result.position) <= server_time()


def calls(server: brokers.Redis) -> int:
    """How many scripts were called."""
    statistics = server.ask("INFO", "commandstats")
    return sum(int(statistics.get(f"cmdstat_{verb}", {"calls": 0})["calls"]) for verb in ("eval", "evalsha"))


async def publish_all(layer: RedisStreamsChannelLayer, messages: list[bytes], group: str = "room") -> list[object]:
    """At once; returns what each call returned or raised."""
    return await asyncio.gather(*(layer.publish(group, each) for each in messages), return_exceptions=True)


async def received(layer: RedisStreamsChannelLayer, count: int) -> list[tuple[bytes, str | None]]:
    with anyio.fail_after(30):
        events = [await layer.next_published() for _ in range(count)]
    return [(event.message, event.position) for event in events]


def positions(accepted: list[object]) -> list[str | None]:
    assert all(isinstance(each, PublishResult) for each in accepted), accepted
    return [each.position for each in accepted if isinstance(each, PublishResult)]


async def on_their_way(
    server: brokers.Redis, layer: RedisStreamsChannelLayer, count: int
) -> list[asyncio.Task[PublishResult]]:
    """So many calls of ``publish`` whose messages a frozen server has not read yet."""
    server.server.freeze()
    calls = [asyncio.ensure_future(layer.publish("room", b"%d" % number)) for number in range(count)]
    await anyio.wait_all_tasks_blocked()
    return calls


async def test_they_share_calls_and_keep_their_order(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    messages = [b"%d" % number for number in range(501)]
    before = calls(own_server)
    accepted = await publish_all(layer, messages)
    assert calls(own_server) - before == 6, "one for the first, and five of a hundred"
    assert await received(layer, 501) == list(zip(messages, positions(accepted), strict=True))
    assert [event.message for event in await layer.history("room", since=None, limit=501)] == messages


async def test_groups_do_not_wait_for_each_other(own_server: brokers.Redis, layer: RedisStreamsChannelLayer) -> None:
    before = calls(own_server)
    await asyncio.gather(*(layer.publish(f"room {number}", b"x") for number in range(10)))
    assert calls(own_server) - before == 10


async def test_large_messages_go_alone(own_server: brokers.Redis, layer: RedisStreamsChannelLayer) -> None:
    messages = [b"%d" % number + bytes(size) for number, size in enumerate((9, 200_000, 9, 40_000, 40_000, 9))]
    before = calls(own_server)
    accepted = await publish_all(layer, messages)
    assert calls(own_server) - before == 4, "the first, the large one, two that fit together, and two more"
    assert await received(layer, 6) == list(zip(messages, positions(accepted), strict=True))


async def test_a_publish_cancelled_while_queued_is_discarded(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    first, *others = (asyncio.ensure_future(layer.publish("room", b"%d" % number)) for number in range(5))
    await asyncio.sleep(0)
    others[1].cancel()
    others[2].cancel()
    await asyncio.gather(first, *others, return_exceptions=True)
    assert [message for message, _ in await received(layer, 3)] == [b"0", b"1", b"4"]
    await received(layer, len([await layer.publish("room", b"alone")]))
    before = calls(own_server)
    first, *others = (asyncio.ensure_future(layer.publish("room", b"%d" % number)) for number in range(5, 10))
    await asyncio.sleep(0)
    for each in others:
        each.cancel()
    await asyncio.gather(first, *others, return_exceptions=True)
    await layer.publish("room", b"last")
    assert [message for message, _ in await received(layer, 2)] == [b"5", b"last"]
    assert calls(own_server) - before == 2


async def test_a_publish_cancelled_in_flight_affects_no_other(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    await received(layer, len(await publish_all(layer, [b"in", b"good", b"company"])))
    tasks = await on_their_way(own_server, layer, 5)
    tasks[0].cancel()
    tasks[2].cancel()
    await anyio.wait_all_tasks_blocked()
    own_server.server.thaw()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in outcomes] == [True, False, True, False, False]
    assert [message for message, _ in await received(layer, 5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_all_raise_when_the_server_is_killed(own_server: brokers.Redis, layer: RedisStreamsChannelLayer) -> None:
    await publish_all(layer, [b"in", b"good", b"company"])
    tasks = await on_their_way(own_server, layer, 5)
    tasks[3].cancel()
    await run_sync(own_server.server.kill)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [DeliveryUnknown] * 3 + [asyncio.CancelledError, DeliveryUnknown]


async def test_a_server_that_has_forgotten_the_script(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    own_server.ask("SCRIPT", "FLUSH")
    messages = [b"%d" % number for number in range(10)]
    assert len(set(positions(await publish_all(layer, messages)))) == 10
    assert {message for message, _ in await received(layer, 10)} == set(messages)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("CONFIG", "SET", "maxmemory", "1"), id="no memory"),
        pytest.param(("ACL", "SETUSER", "default", "-xadd"), id="not allowed to keep anything"),
        pytest.param(("ACL", "SETUSER", "default", "-evalsha", "-eval"), id="not allowed to call it"),
    ],
)
async def test_all_are_refused(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer, command: tuple[str, ...]
) -> None:
    own_server.ask(*command)
    outcomes = await publish_all(layer, [b"%d" % number for number in range(5)])
    assert all(isinstance(each, ChannelLayerError) for each in outcomes), outcomes
    own_server.ask("CONFIG", "SET", "maxmemory", "0")
    own_server.ask("ACL", "SETUSER", "default", "+@all")
    await layer.publish("room", b"after")
    assert [message for message, _ in await received(layer, 1)] == [b"after"]


async def test_what_may_not_be_published_is_not_kept(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    own_server.ask("ACL", "SETUSER", "default", "resetchannels", "&room", "&anyio-channels:nodes*")
    outcomes = await publish_all(layer, [b"1", b"2", b"3"], "secret")
    assert all(isinstance(each, ChannelLayerError) for each in outcomes), outcomes
    assert not own_server.ask("XLEN", "{secret}|history")
    own_server.ask("ACL", "SETUSER", "default", "allchannels")
    (first,) = positions(await publish_all(layer, [b"4"], "secret"))
    await publish_all(layer, [b"5", b"6"], "secret")
    assert [event.message for event in await layer.history("secret", since=first, limit=None)] == [b"5", b"6"]


async def test_a_publish_while_the_event_loop_closes_arrives(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    """`asyncio.run` cancels every task, those of the layer too."""
    parting: list[object] = []

    async def leave(other: RedisStreamsChannelLayer) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            own_server.server.thaw()
            try:
                parting.append(await asyncio.wait_for(other.publish("room", b"good bye"), 20))
            finally:
                await other.disconnect()

    async def program() -> None:
        other = RedisStreamsChannelLayer(brokers.with_streams(own_server.url))
        await other.connect()
        await publish_all(other, [b"in", b"good", b"company"])
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(leave(other))]
        await anyio.wait_all_tasks_blocked()
        own_server.server.freeze()
        tasks.append(asyncio.ensure_future(other.publish("room", b"on its way")))
        await anyio.wait_all_tasks_blocked()
        tasks.append(asyncio.ensure_future(other.publish("room", b"not begun")))
        await anyio.wait_all_tasks_blocked()

    await run_sync(asyncio.run, program())
    assert [message for message, _ in await received(layer, 5)] == [
        b"in",
        b"good",
        b"company",
        b"on its way",
        b"good bye",
    ]
    assert len(positions(parting)) == 1


def cancel_batches() -> None:
    """What the end of an event loop does, for the tasks of the layer alone."""
    for task in asyncio.all_tasks():
        if "Batcher" in repr(task):
            task.cancel()


async def test_a_publish_whose_batch_was_cancelled_raises(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    await received(layer, len(await publish_all(layer, [b"in", b"good", b"company"])))
    outcomes = await on_their_way(own_server, layer, 3)
    outcomes[1].cancel()
    cancel_batches()
    outcomes_after = await asyncio.gather(*outcomes, return_exceptions=True)
    assert [type(each) for each in outcomes_after] == [DeliveryUnknown, asyncio.CancelledError, DeliveryUnknown]
    own_server.server.thaw()
    await layer.publish("room", b"after")
    assert [message for message, _ in await received(layer, 4)] == [b"0", b"1", b"2", b"after"]


async def test_a_call_that_was_cancelled_before_it_began_goes_again_if_anybody_waits(
    layer: RedisStreamsChannelLayer,
) -> None:
    await received(layer, len(await publish_all(layer, [b"in", b"good", b"company"])))
    cancelled, patient, alone = (layer.publish(group, group.encode()) for group in ("room", "room", "hall"))
    tasks = [asyncio.ensure_future(each) for each in (cancelled, patient, alone)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    cancel_batches()
    with anyio.fail_after(30):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await layer.publish("hall", b"after")
    assert [type(each) for each in outcomes] == [asyncio.CancelledError, PublishResult, asyncio.CancelledError]
    assert [event.message for event in await layer.history("hall", since=None, limit=9)] == [b"after"]


async def test_bindings_are_looked_for_only_where_there_may_be_some(
    own_server: brokers.Redis, layer: RedisStreamsChannelLayer
) -> None:
    await becomes_true(lambda: not layer.require_session().peers.may_be_bound)
    own_server.ask("CONFIG", "RESETSTAT")
    assert (await layer.publish("room", b"x")).bound_queues == ()
    assert "cmdstat_hgetall" not in own_server.ask("INFO", "commandstats")
    await layer.bind("room", "jobs", capacity=10, expiry=60.0, lifetime=60.0)
    (bound,) = (await layer.publish("room", b"x")).bound_queues
    assert bound.queue == "jobs"
