"""Events of groups for code that is no consumer, over every broker."""

from __future__ import annotations

from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, Event, InvalidPosition, NotSupported, PositionLost, SubscriberFull

from .helpers import Unique
from .kinds import HistoryBroker, Kind
from .processes import Processes, n, soon, until

pytestmark = [pytest.mark.anyio, pytest.mark.encrypted_only, pytest.mark.measured_in_memory]


async def take(events: Any, count: int) -> list[tuple[str, Any]]:
    found = [await soon(events.__anext__()) for _ in range(count)]
    return [(event.group, event.message) for event in found]


async def test_all_that_is_sent_to_groups_comes_once(processes: Processes) -> None:
    here, there = processes.new(), processes.new()
    await here.new_channel()
    topics = here.statistics()["topics"]
    async with here.listen("g", "h") as events, here.listen("h") as others:
        await there.group_send("g", n(1))
        assert await take(events, 1) == [("g", n(1))]
        await there.group_send(["g", "h", "i"], n(2))
        assert [message for _, message in await take(events, 1)] == [n(2)], "the other copy does not come"
        assert await take(others, 1) == [("h", n(2))]
        await there.group_send("h", n(3), exclude="nobody")
        await there.group_close("h")
        await there.broadcast("h", text="ready")
        for each in (events, others):
            assert await take(each, 2) == [("h", n(3)), ("h", {"type": "websocket.broadcast", "text": "ready"})]
        assert here.statistics()["topics"] == topics + 2
    await until(lambda: here.statistics()["topics"] == topics)


async def test_a_pattern_finds_groups_where_the_broker_has_patterns(processes: Processes, kind: Kind) -> None:
    layer = processes.new()
    if kind.pattern is None and kind.name != "two-valkeys":  # whose layers, one by one, are tested as another kind
        with pytest.raises(NotSupported, match="by its name"):
            async with layer.listen(pattern="room.*"):
                pass
        return
    async with layer.listen("other", pattern="room.*") as events:
        await layer.group_send("room.1", n(1))
        await layer.group_send("rooms", n(2))
        await layer.group_send("room.2", n(3))
        assert sorted(await take(events, 2), key=str) == [("room.1", n(1)), ("room.2", n(3))]
        await layer.group_send(["other", "room.1", "room.2"], n(4))
        await layer.group_send("other", n(5))
        messages = [message for _, message in await take(events, 2)]
        assert sorted(message["n"] for message in messages) == [4, 5]


async def test_listening_goes_on_where_it_ended(django_history_broker: HistoryBroker, unique: Unique) -> None:
    layer = AnyioChannelLayer(**{**django_history_broker.config(history_length=100), "prefix": unique("t")})
    await layer.group_send("g", n(0))
    [first] = await layer.group_history("g")
    await layer.group_send("g", n(1), exclude="nobody")
    await layer.group_send(["g", "h"], n(2))
    await layer.group_close("g")
    async with layer.listen("g", since=first.position, capacity=3) as events:
        await layer.group_send("g", n(3))
        seen: list[Event[Any]] = [await soon(events.__anext__()) for _ in range(3)]
        assert [event.message for event in seen] == [n(1), n(2), n(3)]
        for number in range(4, 9):
            await layer.group_send("g", n(number))
        with pytest.raises(SubscriberFull):
            while True:
                seen.append(await soon(events.__anext__()))
    assert [event.message for event in seen[3:]] == [n(4), n(5), n(6)]
    async with layer.listen("g", since=seen[-1].position) as events:
        assert await take(events, 2) == [("g", n(7)), ("g", n(8))]
    for wrong, error in (("nowhere", InvalidPosition), ("01234567-1-1", PositionLost)):
        with pytest.raises(error):
            async with layer.listen("g", since=wrong):
                pass
    await layer.close()
