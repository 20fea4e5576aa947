"""What is missed over an outage: a session that is scripted, so that each moment is the test's."""

from __future__ import annotations

import asyncio

import pytest

from django_anyio_channels.brokers.common.entries import HistoryEntry
from django_anyio_channels.brokers.common.event_stream import EventStream
from django_anyio_channels.brokers.common.history import HistoryPage
from django_anyio_channels.brokers.common.history_sync import HistorySync
from django_anyio_channels.core.exceptions import ListenerClosed
from tests.support.layers import anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio


def entry(number: int) -> HistoryEntry:
    return HistoryEntry(b"01234567-0-%d" % number, b"0-%d" % (number - 1), b"%d" % number)


class Session:
    """A session with a broker that has one group, "room"."""

    def __init__(self) -> None:
        self.events = EventStream()
        self.last = 1
        self.reads = 0
        self.may_reply = asyncio.Event()
        self.may_reply.set()

    def abort(self, error: ListenerClosed) -> None:
        raise AssertionError(error)

    async def read_page(self, group: str, reached: bytes) -> HistoryPage:
        self.reads += 1
        begin = int(reached.rpartition(b"-")[2]) + 1 if reached else self.last + 1
        page = HistoryPage(entry(self.last).position, [entry(number) for number in range(begin, self.last + 1)])
        await self.may_reply.wait()
        return page

    async def is_memory_lost(self) -> bool:
        return False

    async def received(self, count: int) -> list[bytes]:
        async with asyncio.timeout(30):
            return [(await self.events.next()).message for _ in range(count)]


async def subscribed() -> tuple[HistorySync, Session]:
    sync, session = HistorySync(), Session()
    sync.start(session)
    sync.add("room")
    await sync.catch_up("room")
    return sync, session


async def test_what_does_not_come_live_is_read() -> None:
    sync, session = await subscribed()
    session.last = 3
    sync.notify_published("room")
    session.last = 4
    sync.add_live("room", entry(4))
    assert await session.received(3) == [b"2", b"3", b"4"]
    sync.notify_published("another room")
    assert session.reads == 2


async def test_what_is_notified_while_the_history_is_read_is_read_after_it() -> None:
    sync, session = await subscribed()
    session.may_reply.clear()
    session.last = 2
    sync.notify_published("room")
    while session.reads < 2:
        await asyncio.sleep(0)
    session.last = 3
    sync.notify_published("room")
    sync.notify_published("room")
    session.may_reply.set()
    assert await session.received(2) == [b"2", b"3"]
    session.last = 4
    sync.add_live("room", entry(4))
    assert await session.received(1) == [b"4"]
    assert session.reads == 3, "once for both"


async def test_only_groups_with_a_history_are_read_again_after_a_gap() -> None:
    sync, session = await subscribed()
    assert sync.has("room")
    assert not sync.has("news")
    assert not sync.restart("news", 1.0)
    session.last = 2
    assert sync.restart("room", 1.0)
    assert await session.received(1) == [b"2"]
