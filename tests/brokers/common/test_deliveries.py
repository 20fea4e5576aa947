"""The consumers of a layer: a source of work that is scripted, so that each moment is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from django_anyio_channels.brokers.common.acknowledgement import Delivery
from django_anyio_channels.brokers.common.deliveries import Deliveries, DeliveryManager
from django_anyio_channels.brokers.common.event_stream import EventStream
from django_anyio_channels.core.exceptions import ChannelLayerError, ListenerClosed
from tests.support.layers import anyio_backend

__all__ = ["anyio_backend"]

pytestmark = pytest.mark.anyio

CLOSED = ListenerClosed("the session is over")


class Session:
    """All that consumers need of one."""

    def __init__(self) -> None:
        self.events = EventStream()


class Source:
    """A queue whose replies are scripted; without one, a call brings nothing."""

    group = "jobs"

    def __init__(self, *replies: Deliveries | None) -> None:
        self.replies = list(replies)
        self.numbers: list[int] = []
        self.refusal: Exception | None = None
        self.released: list[tuple[list[bytes], bool]] = []

    def position(self, work_id: bytes) -> str | None:
        return None

    async def watch(self, session: Session, changed: Callable[[], None]) -> None:
        self.changed = changed

    def unwatch(self, session: Session) -> None:
        raise AssertionError("a consumer has ended")

    async def deliver(self, session: Session, node: str, number: int, count: int, seconds: float) -> Deliveries | None:
        self.numbers.append(number)
        return self.replies.pop(0) if self.replies else Deliveries(False, seconds, [])

    async def release(self, session: Session, ids: list[bytes], *, undelivered: bool) -> None:
        self.released.append((ids, undelivered))
        if self.refusal is not None:
            raise self.refusal

    def acknowledge(self, session: Session, work_id: bytes) -> asyncio.Future[None]:
        raise AssertionError("nothing is acknowledged here")


def work(*messages: bytes) -> Deliveries:
    return Deliveries(False, 60.0, [Delivery(message, 1, message) for message in messages])


async def receive(manager: DeliveryManager[Session], source: Source) -> bytes:
    return (await asyncio.wait_for(manager.receive(source), 30)).message


async def test_a_call_that_the_broker_cannot_serve_now_is_repeated() -> None:
    manager, source = DeliveryManager[Session](60.0), Source(None, None, work(b"1"))
    manager.start(Session())
    assert await receive(manager, source) == b"1"
    assert source.numbers == [1, 1, 1], "the same call, so that nothing is delivered twice"


@pytest.mark.parametrize("refusal", [None, CLOSED, ChannelLayerError("refused")], ids=["released", "over", "refused"])
async def test_what_is_pending_is_released_if_it_can_be(
    refusal: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    manager, source, session = DeliveryManager[Session](60.0), Source(work(b"1")), Session()
    manager.start(session)
    await receive(manager, source)
    source.refusal = refusal
    source.unwatch = lambda session: None  # type: ignore[method-assign]
    await manager.close_gracefully(session, CLOSED)
    assert source.released == [([b"1"], False)]
    refused = "1 messages of jobs cannot be released, and are delivered again later: refused" in caplog.text
    assert refused == (refusal is not None and refusal is not CLOSED)
