"""Events from a connection's callbacks to the hub: pushed to its handler, or pulled by it."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from django_anyio_channels import Event, ListenerClosed
from django_anyio_channels.brokers.common.event_stream import EventStream
from tests.support.layers import TIME_LIMIT, anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio


def event(number: int) -> Event[bytes]:
    return Event("g", b"%d" % number)


async def pulled(stream: EventStream, count: int) -> list[int]:
    with anyio.fail_after(TIME_LIMIT):
        return [int((await stream.next()).message) for _ in range(count)]


async def test_events_are_pulled_in_order_beginning_with_the_unconsumed() -> None:
    stream = EventStream([event(1), event(2)])
    stream.add(event(3))
    assert len(stream.queued) == 3
    assert await pulled(stream, 3) == [1, 2, 3]
    assert (len(stream.queued), stream.unconsumed()) == (0, [])


async def test_a_waiting_reader_is_woken_by_an_event_and_may_be_cancelled() -> None:
    stream = EventStream()
    reader = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.sleep(0)
    stream.add(event(1))
    assert await pulled(stream, 1) == [1]
    reader = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    for number in (2, 3):
        stream.add(event(number))
    assert await reader == event(2)
    assert await pulled(stream, 1) == [3]


async def test_a_waiting_reader_is_woken_by_the_end() -> None:
    stream = EventStream()
    reader = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    stream.end(ListenerClosed("first"))
    stream.end(ListenerClosed("second"))
    with pytest.raises(ListenerClosed, match="first"):
        await reader


async def test_the_handler_gets_an_event_at_once_unless_others_wait() -> None:
    stream, handled = EventStream([event(1)]), list[int]()
    stream.set_event_handler(lambda each: handled.append(int(each.message)))
    stream.add(event(2))
    assert handled == [], "it would overtake the first one"
    assert await pulled(stream, 2) == [1, 2]
    stream.add(event(3))
    assert handled == [3]


async def test_the_handler_gets_so_many_events_in_one_turn_and_the_rest_is_pulled() -> None:
    stream, handled = EventStream(), list[int]()
    stream.set_event_handler(lambda each: handled.append(int(each.message)))
    for number in range(40):
        stream.add(event(number))
    assert handled == list(range(32))
    assert await pulled(stream, 8) == list(range(32, 40))
    await asyncio.sleep(0)
    stream.add(event(40))
    assert handled[32:] == [40]


@pytest.mark.parametrize("pushed", [False, True])
async def test_events_after_the_end_are_for_the_next_session(pushed: bool) -> None:
    """The connections to several servers end one after the other."""
    stream = EventStream()
    stream.add(Event("g", b"before"))
    if pushed:
        stream.set_event_handler(lambda event: pytest.fail(f"{event} is for the next session"))
    stream.end(ListenerClosed("closed"))
    stream.add(Event("g", b"after"))
    assert (await stream.next()).message == b"before"
    for _ in range(2):
        with pytest.raises(ListenerClosed, match="closed"):
            await stream.next()
        stream.add(Event("g", b"later"))
    assert [event.message for event in stream.unconsumed()] == [b"after", b"later", b"later"]
