"""`django.presence.node`: what a node writes, renews and gives up, over errors and outages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, ChannelLayerError
from django_anyio_channels.brokers.memory.presence import PresenceTable
from django_anyio_channels.core.capabilities import PresenceRecord
from django_anyio_channels.django.presence import node as presence_node
from django_anyio_channels.django.presence import timing
from django_anyio_channels.django.presence.group import PresenceGroup
from django_anyio_channels.django.presence.records import Entry, Gone, Update, encode_event
from tests.django.helpers import connection_of, layers, node_in, soon, take_down

pytestmark = pytest.mark.anyio

TOPIC = "asgi:g:room"


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await soon(wait())


async def add(layer: AnyioChannelLayer, member: str) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel, member=member)
    return channel


async def watch(layer: AnyioChannelLayer) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel, watch=True)
    await layer.group_members("room")
    return channel


def group_of(layer: AnyioChannelLayer) -> PresenceGroup:
    return node_in(layer).presence.groups[TOPIC]


def table_of(layer: AnyioChannelLayer) -> PresenceTable:
    return connection_of(layer).broker.presence


def known(layer: AnyioChannelLayer) -> set[str]:
    return set(group_of(layer).view.members)


async def told(layer: AnyioChannelLayer, channel: str) -> tuple[list[str], list[str]]:
    """Who joined and who left by the next message."""
    message = await soon(layer.receive(channel))
    return list(message["joined"]), message["left"]


async def test_nothing_is_left_of_20000_members_that_came_and_went() -> None:
    one, two = layers(2, presence_grace=0)
    watcher = await watch(two)
    stays = await add(one, "stays")
    for number in range(0, 20_000, 100):
        channels = [await add(one, f"member {number + each}") for each in range(100)]
        if number % 2000 == 0:
            await one.group_members("room")  # else nobody ever hears of some
        for channel in channels:
            await one.group_discard("room", channel)

    async def alone() -> bool:
        return await one.group_count("room") == await two.group_count("room") == (1, 1)

    async def settle() -> None:
        while not await alone():
            await asyncio.sleep(0.005)

    await soon(settle())
    assert known(one) == known(two) == {"stays"}
    await one.group_discard("room", stays)
    await two.group_discard("room", watcher)
    for layer in (one, two):
        await until(lambda layer=layer: not node_in(layer).presence.groups)  # type: ignore[misc]
        assert not [task for task in node_in(layer).presence._tasks if task is not node_in(layer).presence._maintaining]
    await until(lambda: not any("room" in name for name in table_of(one)._records))
    await until(lambda: node_in(one).presence._maintaining is None)
    # And it begins again.
    await add(one, "again")
    assert list(await one.group_members("room")) == ["again"]


async def test_a_channel_that_is_discarded_while_it_is_added_is_no_members(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = layers(2)
    channel = await one.new_channel()
    connection = connection_of(one)
    subscribe, subscribing = connection.subscribe, asyncio.Event()
    go_on = asyncio.Event()

    async def wait(groups: str) -> None:
        subscribing.set()
        await go_on.wait()
        await subscribe(groups)

    monkeypatch.setattr(connection, "subscribe", wait)
    adding = asyncio.ensure_future(one.group_add("room", channel, member="ghost"))
    await soon(subscribing.wait())
    await one.group_discard("room", channel)
    go_on.set()
    await soon(adding)
    assert await one.group_members("room") == await two.group_members("room") == {}
    assert not node_in(one).presence.groups


async def test_a_channel_may_become_another_members() -> None:
    [one] = layers(1, presence_grace=0)
    watcher = await watch(one)
    channel = await add(one, "anonymous")
    assert await told(one, watcher) == (["anonymous"], [])
    await one.group_add("room", channel, member="42")
    joined, left = await told(one, watcher)
    assert (joined, left or (await told(one, watcher))[1]) == (["42"], ["anonymous"])


async def test_a_group_without_members_is_forgotten() -> None:
    one, two = layers(2, presence_grace=0)
    channel = await add(one, "42")
    await one.group_members("room")
    await one.group_discard("room", channel)
    await until(lambda: not node_in(one).presence.groups)
    await until(lambda: node_in(one).channel.subscriptions == 2)
    assert await two.group_count("room") == (0, 0)


async def test_a_node_that_was_given_up_and_lives_comes_back() -> None:
    one, two = layers(2, presence_grace=0)
    await add(one, "one")
    watcher = await watch(two)
    assert known(two) == {"one"}
    maintaining = node_in(one).presence._maintaining
    assert maintaining is not None
    maintaining.cancel()  # as if something blocked its event loop
    assert await told(two, watcher) == ([], ["one"])
    assert await told(two, watcher) == (["one"], [])
    assert await two.group_count("room") == (1, 1)


async def test_a_node_that_the_first_one_does_not_know_is_given_up_by_another() -> None:
    first, second = layers(2)
    for layer in (first, second):
        await add(layer, "here")
        await layer.group_members("room")
    first, second = sorted((first, second), key=lambda layer: node_in(layer).id)
    ghost = Update("f" * 16, 0, 1, {"ghost": Entry(1.0, 1, [b"\x80"])})
    group_of(second).view.update(ghost)
    await until(lambda: known(second) == {"here"})
    # An old event about a node that has changed since gives up nobody.
    await node_in(first).publish(group_of(first).topic, encode_event(Gone({node_in(first).id: 0})))
    assert await first.group_count("room") == (2, 1)


async def test_a_channel_that_has_ended_is_no_members() -> None:
    [one] = layers(1)
    channel = await one.new_channel()
    ended = channel.replace("!0.", "!1.")  # that of a consumer
    await one.group_add("room", ended, member="ghost")
    await one.group_add("room", channel, member="42")
    await one.group_add("other", channel, member="42")
    assert await one.group_count("other") == await one.group_count("room") == (1, 1)


async def test_what_the_broker_lost_is_written_again() -> None:
    one, two = layers(2)
    for number in range(100):
        await add(one, f"member {number}")
    assert (await two.group_count("room")).members == 100
    table_of(one).purge("")

    async def restored() -> None:
        while (await two.group_count("room")).members < 100:
            await asyncio.sleep(0.005)

    await soon(restored())
    assert known(one) == set(await two.group_members("room"))


async def test_what_the_broker_lost_is_written_again_though_members_join_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "INTERVAL", 1000.0)  # the next turn of the node is made here
    one, two = layers(2)
    await add(one, "old")
    await one.group_members("room")
    table_of(one).purge("")
    monkeypatch.setattr(timing, "INTERVAL", 0.0)
    channel = await one.new_channel()
    await one.group_add("lobby", channel, member="new")
    await one.group_members("lobby")
    monkeypatch.setattr(timing, "INTERVAL", 1000.0)
    await node_in(one).presence._renew_and_look()

    async def restored() -> None:
        while list(await two.group_members("room")) != ["old"]:
            await asyncio.sleep(0.005)

    await soon(restored())
    assert list(await two.group_members("lobby")) == ["new"]


async def test_records_are_written_again_before_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_node, "_REFRESH_SECONDS", 0.0)
    [one] = layers(1)
    await add(one, "member")
    await one.group_members("room")
    before = group_of(one).written
    await until(lambda: group_of(one).written > before)


class Refusing:
    """Has a broker refuse the records of groups, a number of times."""

    def __init__(self, layer: AnyioChannelLayer, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
        self.times = times
        connection = connection_of(layer)
        put = connection.put_presence

        async def put_presence(records: Sequence[PresenceRecord], ttl: float) -> None:
            if self.times and name in records[0].name:
                self.times -= 1
                raise ChannelLayerError("not for you")
            await put(records, ttl)

        monkeypatch.setattr(connection, "put_presence", put_presence)


async def test_what_the_broker_refuses_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers(2)
    await add(one, "before")
    await one.group_members("room")
    Refusing(one, monkeypatch, ":p:room", 2)
    await add(one, "member")
    await one.group_members("room")
    assert set(await two.group_members("room")) == {"before", "member"}
    refusing = Refusing(one, monkeypatch, ":p:room", 1)
    group_of(one).is_lost = True
    node_in(one).presence.work_added(group_of(one))
    await until(lambda: not refusing.times and not group_of(one).is_lost)
    assert "The members of room cannot be published: not for you" in caplog.text
    refusing = Refusing(one, monkeypatch, ":c:present", 1)
    await until(lambda: not refusing.times)
    await until(lambda: "The presence of this node cannot be renewed: not for you" in caplog.text)


async def test_a_refused_subscription_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = layers(2)
    await one.new_channel()
    connection = connection_of(one)
    subscribe = connection.subscribe

    async def refuse(groups: str) -> None:
        if ":p:" in groups and "cannot be published" not in caplog.text:
            raise ChannelLayerError("not for you")
        await subscribe(groups)

    monkeypatch.setattr(connection, "subscribe", refuse)
    await add(one, "member")
    # A node that cannot know answers by what it reads.
    assert await one.group_members("room") in ({}, await one.group_members("room"))

    async def there() -> None:
        while "member" not in await two.group_members("room"):
            await asyncio.sleep(0.005)

    await soon(there())


async def test_a_failure_of_our_own_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    [one] = layers(1)
    await add(one, "member")
    await one.group_members("room")

    async def fail() -> None:
        raise RuntimeError("a bug")

    node_in(one).presence._start(fail())
    await until(lambda: "Unexpected error in presence" in caplog.text)


async def test_after_an_outage_everything_is_written_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = layers(2, presence_grace=0)
    window = await add(one, "one")
    await add(two, "two")
    await watch(two)
    assert known(two) == {"one", "two"}
    connection = await take_down(two)
    await one.group_discard("room", window)
    await add(one, "new")
    await one.group_members("room")
    table_of(one).purge("")
    connection.is_down = False
    await until(lambda: known(two) == {"two", "new"})
    await until(lambda: known(one) == {"two", "new"})


async def test_events_that_were_missed_are_noticed() -> None:
    one, two = layers(2)
    await add(one, "one")
    watcher = await watch(two)
    group = group_of(two)
    node_in(two).presence.mark_missed("another topic")
    assert not group.is_stale
    # The next event tells that the one before it was missed.
    table = table_of(one)
    group.put, put = (lambda entry: None), group.put  # type: ignore[method-assign]
    node_in(two).channel.remove_sink(group.topic, group)
    await add(one, "missed")
    await one.group_members("room")
    await node_in(two).channel.add_sink(group.topic, group)
    group.put = put  # type: ignore[method-assign]
    await add(one, "next")
    assert await told(two, watcher) == (["missed", "next"], [])
    assert table.read("asgi:p:room")
    node_in(two).presence.mark_missed(group.topic)
    assert group.is_stale
    await until(lambda: not group.is_stale)


async def test_a_process_that_ends_during_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    [one] = layers(1)
    await add(one, "one")
    await one.group_members("room")
    await take_down(one)
    caplog.clear()
    await soon(one.close())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_the_last_renewal_is_for_the_grace_period() -> None:
    one, two = layers(2, presence_grace=3.0)
    await add(one, "one")
    await one.group_members("room")
    await one.close()
    assert list(await two.group_members("room")) == ["one"]
    ((ends, _),) = table_of_closed(two)
    assert ends > 0


def table_of_closed(layer: AnyioChannelLayer) -> list[Any]:
    return list(table_of(layer)._records["asgi:c:present"].values())


async def test_what_no_node_has_written_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    one, two = layers(2)
    await add(one, "one")
    await one.group_members("room")
    node = node_in(one).id
    forged = [
        PresenceRecord("asgi:p:room", "not a node", b"x"),
        PresenceRecord("asgi:p:room", "e" * 16, b"x"),
        PresenceRecord("asgi:c:present", "not a node", b"x"),
    ]
    table_of(one).put(forged, 60.0)
    assert list(await two.group_members("room")) == ["one"]
    table_of(one).put([PresenceRecord("asgi:p:room", node, b"")], 60.0)
    assert await two.group_members("room") == {}  # the node has yet to write what its records are of
    table_of(one).put([PresenceRecord("asgi:n:room", f"{node}.9", b"\xc1")], 60.0)
    assert await two.group_count("room") == (0, 0)
    assert "it is not a presence record of this version" in caplog.text
    assert timing.INTERVAL == 0.1
