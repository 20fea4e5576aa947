"""The layer that keeps a history: what it stores, what it returns, and what it reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from django_anyio_channels import (
    ChannelLayerError,
    DeliveryUnknown,
    Event,
    ListenerClosed,
    PayloadTooLarge,
    PublishResult,
    RedisStreamsChannelLayer,
)
from django_anyio_channels.brokers.common.entries import HistoryEntry, entry_id, epoch_of, sort_key
from django_anyio_channels.brokers.redis import layer as redis_layer
from django_anyio_channels.brokers.redis.streams.history import Published
from tests.brokers.redis.conftest import becomes_true
from tests.support.brokers import redis as brokers

pytestmark = pytest.mark.anyio

Open = Callable[..., Awaitable[RedisStreamsChannelLayer]]


@pytest.fixture
async def open_layer() -> AsyncIterator[Open]:
    """Makes connected layers, and disconnects them at the end."""
    async with AsyncExitStack() as stack:

        async def connect(server: brokers.Redis, **options: float) -> RedisStreamsChannelLayer:
            layer = RedisStreamsChannelLayer(brokers.with_streams(server.url), **options)  # type: ignore[arg-type]
            await layer.connect()
            stack.push_async_callback(layer.disconnect)
            return layer

        yield connect


async def lose_a_live_message(layer: RedisStreamsChannelLayer, group: str, message: bytes) -> None:
    """Keep a message in the history as `publish` does, but publish it to another channel."""
    session = layer.require_session()
    [published] = await layer._history.publish(session, b"elsewhere", [(group.encode(), message)])
    assert isinstance(published, Published)
    assert published.receivers == 0


async def next_of(layer: RedisStreamsChannelLayer, count: int) -> list[Event[bytes]]:
    with anyio.fail_after(30):
        return [await layer.next_published() for _ in range(count)]


# ---- positions ---------------------------------------------------------------------------------------------------


async def test_publish_and_event_tell_the_position(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    first, second = await layer.publish("room", b"1"), await layer.publish("room", b"2")
    assert first.receivers == second.receivers == 1
    assert first.position is not None
    assert second.position is not None
    assert [event.position for event in await next_of(layer, 2)] == [first.position, second.position]
    assert epoch_of(first.position.encode()) == epoch_of(second.position.encode())
    assert sort_key(first.position.encode()) < sort_key(second.position.encode())
    ids = [entry[0] for entry in server.ask("XRANGE", "{room}|history", "-", "+")]
    assert ids == [entry_id(each.encode()).decode() for each in (first.position, second.position)]


async def test_an_epoch_ends_with_the_servers_memory(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    await layer.publish("room", b"1")
    server.ask("FLUSHALL")
    await layer.publish("room", b"2")
    events = await next_of(layer, 2)
    assert [event.message for event in events] == [b"1", b"2"], "over a connection that holds, nothing is missed"
    assert len({epoch_of((event.position or "").encode()) for event in events}) == 2


# ---- what is kept ------------------------------------------------------------------------------------------------


async def test_a_history_is_bounded_by_length(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server, history_length=10)
    for number in range(300):
        await layer.publish("room", b"%d" % number)
    assert 10 <= server.ask("XLEN", "{room}|history") <= 110


async def test_a_history_is_bounded_by_age(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server, history_age=2.0)
    await layer.publish("room", b"old")
    with anyio.fail_after(30):
        while server.ask("XLEN", "{room}|history") and server.ask("XRANGE", "{room}|history", "-", "+", "COUNT", 1)[0][
            1
        ][""].endswith("old"):
            await layer.publish("room", b"new")
            await anyio.sleep(0.05)
    assert 0 < server.ask("PTTL", "{room}|history") <= 2050
    assert server.ask("PTTL", "{room}|position") > 3600_000
    await becomes_true(lambda: not server.ask("EXISTS", "{room}|history"))


async def test_somebody_elses_keys_are_replaced(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    for key in ("{room}|history", "{room}|position", "{room}|queues"):
        server.ask("DEL", key)
        server.ask("SADD", key, "something else")
        await layer.publish("room", key.encode())
    assert [event.message for event in await next_of(layer, 3)] == [
        b"{room}|history",
        b"{room}|position",
        b"{room}|queues",
    ]


async def test_a_server_without_memory_left_keeps_the_history_that_it_has(
    own_server: brokers.Redis, open_layer: Open
) -> None:
    layer = await open_layer(own_server)
    await layer.publish("room", b"1")
    own_server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ChannelLayerError, match=r"OOM.*raise its maxmemory"):
        await layer.publish("room", b"2")
    own_server.ask("CONFIG", "SET", "maxmemory", "0")
    await layer.publish("room", b"3")
    assert own_server.ask("XLEN", "{room}|history") == 2


async def test_purge_forgets_histories(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("mine:room")
    await layer.publish("mine:room", b"1")
    await layer.publish("others:room", b"1")
    await layer.purge("mine:")
    assert server.ask("EXISTS", "{mine:room}|history") == 0
    assert server.ask("EXISTS", "{others:room}|history") == 1
    await layer.publish("mine:room", b"2")
    assert [event.message for event in await next_of(layer, 2)] == [b"1", b"2"]


async def test_a_group_without_history(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    layer.disable_history("news")
    await layer.subscribe("news")
    assert (await layer.publish("news", b"1")).receivers == 1
    assert await next_of(layer, 1) == [Event("news", b"1")]
    await layer.unsubscribe("news")
    assert server.ask("KEYS", "*news*") == []


# ---- holes and strangers -----------------------------------------------------------------------------------------


async def test_a_hole_is_filled_from_the_history(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    await layer.publish("room", b"0")
    for number in range(1, 600):
        await lose_a_live_message(layer, "room", b"%d" % number)
    await layer.publish("room", b"600")
    await layer.publish("room", b"601")
    assert [int(event.message) for event in await next_of(layer, 602)] == list(range(602))


async def test_a_history_that_was_asked_for_too_early_is_asked_for_again(
    server: brokers.Redis, open_layer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscription follows its slot while the history is being read: the answer may be older than that."""
    layer = await open_layer(server)
    await layer.subscribe("room")
    await layer.publish("room", b"1")
    subscriptions = layer.require_session().subscriptions
    answered, read_on = anyio.Event(), anyio.Event()
    page = layer._history.page

    async def slow_page(*arguments: Any) -> Any:
        answer = await page(*arguments)
        answered.set()
        await read_on.wait()
        return answer

    monkeypatch.setattr(layer._history, "page", slow_page)
    subscriptions.report_gap(b"room", 0.1)
    with anyio.fail_after(30):
        await answered.wait()
    await lose_a_live_message(layer, "room", b"2")
    subscriptions.report_gap(b"room", 0.1)
    read_on.set()
    assert [event.message for event in await next_of(layer, 2)] == [b"1", b"2"]


async def test_a_hole_in_a_group_that_is_given_up(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    await layer.publish("room", b"1")
    await next_of(layer, 1)
    layer._sync.add_live("room", HistoryEntry(b"ffffffff-1-5", b"1-4", b"after a hole"))
    await layer.unsubscribe("room")
    await layer.subscribe("room")
    await layer.publish("room", b"2")
    assert [event.message for event in await next_of(layer, 1)] == [b"2"]


async def test_a_hole_that_may_not_be_read_ends_the_session(own_server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(own_server)
    await layer.subscribe("room")
    own_server.ask("ACL", "SETUSER", "default", "-xrange")
    await lose_a_live_message(layer, "room", b"1")
    await layer.publish("room", b"2")
    with pytest.raises(ListenerClosed, match=r"can.t run this command|XRANGE|xrange|permission"):
        await next_of(layer, 1)


async def test_a_group_whose_history_may_not_be_read_is_refused(own_server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(own_server)
    own_server.ask("ACL", "SETUSER", "default", "-get")
    with pytest.raises(ChannelLayerError, match=r"refuses: .*(can.t run|permission|get)"):
        await layer.subscribe("room")
    own_server.ask("ACL", "SETUSER", "default", "+get")
    await layer.subscribe("room")
    await layer.publish("room", b"1")
    assert (await next_of(layer, 1))[0].message == b"1"


async def test_what_others_publish_to_a_group_with_history(
    server: brokers.Redis, open_layer: Open, caplog: pytest.LogCaptureFixture
) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    server.ask("PUBLISH", "room", "from somewhere")
    await layer.publish("room", b"1")
    assert (await next_of(layer, 1))[0].message == b"1"
    assert "Ignored a message on room that was not published by this package: b'from somewhere'" in caplog.text


async def test_what_comes_over_the_wire_twice_is_handed_out_once(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe("room")
    first = await layer.publish("room", b"1")
    assert isinstance(first, PublishResult)
    server.ask("PUBLISH", "room", f"{first.position} 0-0\n1")
    second = await layer.publish("room", b"2")
    assert isinstance(second, PublishResult)
    assert [event.position for event in await next_of(layer, 2)] == [first.position, second.position]


async def test_a_pattern_gets_messages_with_and_without_history(server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(server)
    await layer.subscribe_pattern("r*")
    accepted = await layer.publish("room", b"1")
    server.ask("PUBLISH", "radio", "2")
    events = await next_of(layer, 2)
    assert events == [Event("room", b"1", "r*"), Event("radio", b"2", "r*")]
    assert isinstance(accepted, PublishResult)
    assert [event.position for event in events] == [accepted.position, None]


# ---- sessions --------------------------------------------------------------------------------------------------------


async def kill_connections(server: brokers.Redis, layer: RedisStreamsChannelLayer) -> None:
    for kind in ("pubsub", "normal"):
        server.ask("CLIENT", "KILL", "TYPE", kind)
    with pytest.raises(ListenerClosed):
        while True:
            await next_of(layer, 1)
    await layer.disconnect()


async def test_a_broken_session_goes_on_where_it_ended(own_server: brokers.Redis, open_layer: Open) -> None:
    layer, other = await open_layer(own_server), await open_layer(own_server)
    for group in ("room", "given up"):
        await layer.subscribe(group)
        await other.publish(group, b"1")
    await next_of(layer, 2)
    await kill_connections(own_server, layer)
    await kill_connections(own_server, other)
    await other.connect()
    for number in range(2, 700):
        await other.publish("room", b"%d" % number)
        await other.publish("given up", b"x")
    await layer.connect()
    await kill_connections(own_server, layer)
    await layer.connect()
    await layer.subscribe("room")
    assert layer.subscriptions_restored()
    await layer.subscribe("given up")
    assert [int(event.message) for event in await next_of(layer, 698)] == list(range(2, 700))
    await layer.publish("given up", b"new")
    assert [event.message for event in await next_of(layer, 1)] == [b"new"]


async def test_a_subscription_that_its_group_outlives(server: brokers.Redis, open_layer: Open) -> None:
    """Unsubscribing while another task still subscribes leaves nothing that waits for ever."""
    layer = await open_layer(server)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.subscribe, "room")
            tasks.start_soon(layer.unsubscribe, "room")
    await layer.subscribe("room")
    await layer.publish("room", b"1")
    assert (await next_of(layer, 1))[0].message == b"1"


async def test_a_link_that_breaks_while_publishing(own_server: brokers.Redis, open_layer: Open) -> None:
    layer = await open_layer(own_server)
    own_server.server.freeze()
    async with anyio.create_task_group() as tasks:

        async def publish() -> None:
            with pytest.raises(DeliveryUnknown, match="may or may not have been accepted"):
                await layer.publish("room", b"1")

        tasks.start_soon(publish)
        await anyio.wait_all_tasks_blocked()
        own_server.server.kill()


async def test_a_message_that_is_too_large(
    server: brokers.Redis, open_layer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_layer, "LARGEST_MESSAGE", 10)
    layer = await open_layer(server)
    with pytest.raises(PayloadTooLarge, match="up to 10 bytes; this message has 11"):
        await layer.publish("room", b"x" * 11)


# ---- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"history_length": 0}, {"history_age": 0.0}, {"history_bytes": 0}])
def test_a_history_of_nothing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="has an invalid value"):
        RedisStreamsChannelLayer("redis+streams://localhost", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+streams://user:secret@host:1/2", "redis://host:1/2"),
        ("rediss+streams://host", "rediss://host:6379/0"),
        ("unix+streams:///tmp/socket?db=3", "unix:///tmp/socket?db=3"),
        ("redis+streams+sentinel://a:1,b/mymaster/3", "redis+sentinel://a:1,b:26379/mymaster/3"),
        ("redis+streams+cluster://:secret@a:1,b", "redis+cluster://a:1,b"),
        ("rediss+cluster+streams://a:1", "rediss+cluster://a:1"),
        ("redis://host", "redis://host:6379/0"),
    ],
)
def test_urls(url: str, address: str) -> None:
    assert RedisStreamsChannelLayer(url).address == address


def test_options_instead_of_a_url() -> None:
    assert RedisStreamsChannelLayer(host="host", port=1).address == "redis://host:1/0"
