"""Events on their way to the hub."""

from __future__ import annotations

import pytest

from django_anyio_channels import Event, ListenerClosed
from django_anyio_channels.brokers.common.event_stream import EventStream

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Those who have one are asyncio's."""
    return "asyncio"


@pytest.mark.parametrize("at_once", [False, True])
async def test_what_comes_after_the_end_is_for_the_next_life(at_once: bool) -> None:
    """The connections to several servers end one after the other."""
    arrivals = EventStream()
    arrivals.add(Event("g", b"before"))
    if at_once:
        arrivals.set_event_handler(lambda event: pytest.fail(f"{event} is for the next life"))
    arrivals.end(ListenerClosed("dead"))
    arrivals.add(Event("g", b"after"))
    assert (await arrivals.next()).message == b"before"
    for _ in range(2):
        with pytest.raises(ListenerClosed, match="dead"):
            await arrivals.next()
        arrivals.add(Event("g", b"later"))
    assert [event.message for event in arrivals.unconsumed()] == [b"after", b"later", b"later"]
