"""`django.presence.group`: events that wait, and what the channels of a node are sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.core.events import Event
from django_anyio_channels.django.presence import group as presence_group
from django_anyio_channels.django.presence import view as presence_view
from django_anyio_channels.django.presence.group import PresenceGroup
from django_anyio_channels.django.presence.records import Entry, Head, NodeRecords, Update, encode_event
from tests.django.helpers import layers, node_in, soon

pytestmark = pytest.mark.anyio

OTHER = "f" * 16
EMPTY = b"\x80"


async def watched(layer: AnyioChannelLayer) -> tuple[str, PresenceGroup]:
    """A channel that watches, and its group, which has read the records."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel, watch=True)
    await layer.group_members("room")
    return channel, node_in(layer).presence.groups["asgi:g:room"]


def arrives(group: PresenceGroup, number: int, meta: bytes = EMPTY, *members: str) -> None:
    put = {member: Entry(1.0, 1, [meta]) for member in members or (f"member {number}",)}
    group.put((0.0, Event(group.topic, encode_event(Update(OTHER, number - 1, number, put)))))


async def test_events_wait_for_the_records() -> None:
    [one] = layers(1)
    channel, group = await watched(one)

    async def read() -> dict[str, NodeRecords]:
        arrives(group, 8)
        arrives(group, 9)
        return {OTHER: NodeRecords(Head(7, 8, 1), {"member 8": Entry(1.0, 1, [EMPTY])})}

    group._held = []
    await group.synchronize(read)
    assert sorted(group.view.members) == ["member 8", "member 9"]
    assert list((await soon(one.receive(channel)))["joined"]) == ["member 8"]
    assert list((await soon(one.receive(channel)))["joined"]) == ["member 9"]


async def test_too_many_events_that_wait_are_read_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_group, "_MOST_HELD", 3)
    [one] = layers(1)
    _, group = await watched(one)

    async def read() -> dict[str, NodeRecords]:
        for number in range(5, 9):
            arrives(group, number)
        return {}

    group._held = []
    await group.synchronize(read)
    assert group.is_stale
    assert group.has_work
    assert not group.view.members

    async def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await group.synchronize(fail)
    assert group.is_stale


async def test_a_change_that_does_not_come_back_has_the_records_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_group, "_ECHO_SECONDS", 0.01)
    [one] = layers(1)
    _, group = await watched(one)
    await group.echo(7)
    assert group.is_stale


async def test_more_members_than_a_group_may_have(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(presence_view, "MOST_MEMBERS", 1)
    [one] = layers(1)
    _, group = await watched(one)
    arrives(group, 1)
    arrives(group, 2)
    assert list(group.view.members) == ["member 1"]
    group.put((0.0, Event(group.topic, b"\xc1")))
    assert "its group would have more than 1 members" in caplog.text
    assert "it is not a presence record of this version" in caplog.text
    assert one.statistics()["undecodable"] == 2


async def test_a_message_that_would_be_too_large_is_several() -> None:
    [one] = layers(1, max_message_size=3000)
    channel, group = await watched(one)
    meta: bytes = node_in(one).channel.encode({"about": "x" * 1000})
    arrives(group, 1, meta, *(f"member {number}" for number in range(10)))
    joined: dict[str, Any] = {}
    messages = 0
    while len(joined) < 10:
        message = await soon(one.receive(channel))
        messages += 1
        joined |= message["joined"]
    assert 5 <= messages < 10
    assert {tuple(map(str, member["metas"])) for member in joined.values()} == {(str({"about": "x" * 1000}),)}
    arrives(group, 2, meta * 1, "one")
    group.view.members["one"][OTHER] = Entry(1.0, 4, [meta] * 4)
    group._tell(presence_view.Difference(updated=["one"]))  # too large by itself
    assert list((await soon(one.receive(channel)))["joined"]) == ["one"]
    assert (await soon(one.receive(channel)))["updated"] == {"one": {"metas": [], "since": 1.0}}


async def test_metas_that_no_node_has_written_are_left_out() -> None:
    [one] = layers(1)
    channel, group = await watched(one)
    arrives(group, 1, b"\xc1", "forged")
    assert (await soon(one.receive(channel)))["joined"] == {"forged": {"metas": [], "since": 1.0}}
    group.view.members["forged"][OTHER] = Entry(1.0, 2, [b"\xc1", EMPTY])
    assert (await one.group_members("room"))["forged"].metas == [{}]
    assert one.statistics()["undecodable"] == 2


async def test_a_node_without_records_is_looked_for_once_more() -> None:
    [one] = layers(1)
    _, group = await watched(one)
    arrives(group, 1)
    group.mark_stale()

    async def gone() -> None:
        while group.view.members:
            await asyncio.sleep(0.01)

    await soon(gone())
