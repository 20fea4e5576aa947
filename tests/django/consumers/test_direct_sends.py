"""`django.consumers.direct_sends`: what is sent from outside of a consumer's task behaves as if it were sent in it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from django_anyio_channels.django.consumers.direct_sends import DirectSends

pytestmark = pytest.mark.anyio

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="of the sender")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def nothing() -> None:
    """Await without a wait."""


class Consumer:
    """A task that has made `DirectSends` and carries on what they return."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self.rest: asyncio.Queue[Awaitable[None] | None] = asyncio.Queue()
        self.made: asyncio.Future[DirectSends] = asyncio.get_running_loop().create_future()
        self.send = send
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        VARIABLE.set("of the consumer")
        self.made.set_result(DirectSends(self.send))
        while (rest := await self.rest.get()) is not None:
            await rest


async def test_a_send_that_has_room_has_ended_in_the_name_of_the_consumer() -> None:
    seen: list[Any] = []

    async def send(message: Any) -> None:
        async with asyncio.timeout(30):  # which asks for the task
            await nothing()
            seen.append((message, asyncio.current_task(), VARIABLE.get()))

    consumer = Consumer(send)
    sends = await consumer.made
    here = asyncio.current_task()
    assert sends.send([{"text": "in a task"}]) is None
    assert (asyncio.current_task(), VARIABLE.get()) == (here, "of the sender")
    asyncio.get_running_loop().call_soon(sends.send, [{"text": "in a callback"}])
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert seen == [({"text": text}, consumer.task, "of the consumer") for text in ("in a task", "in a callback")]
    consumer.rest.put_nowait(None)
    await consumer.task


async def test_those_behind_one_that_waits_remain() -> None:
    room, sent = asyncio.Event(), []

    async def send(message: Any) -> None:
        sent.append(message["text"])
        if message["text"] == "waits":
            await room.wait()

    consumer = Consumer(send)
    messages = [{"text": text} for text in ("one", "two", "waits", "remains")]
    rest = (await consumer.made).send(messages)
    assert sent == ["one", "two", "waits"]
    assert messages == [{"text": "remains"}]
    room.set()
    assert rest is not None
    consumer.rest.put_nowait(rest)
    consumer.rest.put_nowait(None)
    await asyncio.wait_for(consumer.task, 30)


async def test_one_that_waits_is_carried_on_in_the_consumers_task() -> None:
    room, steps = asyncio.Event(), []

    async def send(message: Any) -> None:
        await room.wait()
        steps.append(asyncio.current_task())
        await asyncio.sleep(0)
        steps.append(asyncio.current_task())

    consumer = Consumer(send)
    rest = (await consumer.made).send([{}])
    assert rest is not None
    consumer.rest.put_nowait(rest)
    consumer.rest.put_nowait(None)
    room.set()
    await asyncio.wait_for(consumer.task, 30)
    assert steps == [consumer.task] * 2


async def test_the_consumers_cancellation_reaches_it_where_it_waits() -> None:
    seen: list[str] = []

    async def send(message: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    consumer = Consumer(send)
    rest = (await consumer.made).send([{}])
    assert rest is not None
    consumer.rest.put_nowait(rest)
    while not consumer.rest.empty():
        await asyncio.sleep(0)
    consumer.task.cancel()
    await asyncio.wait([consumer.task])
    assert consumer.task.cancelled()
    assert seen == ["cancelled", "cleaned up"]


async def test_a_cancellation_before_it_is_awaited_reaches_it() -> None:
    seen: list[Any] = []
    inner = asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        try:
            await inner
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())

    consumer = Consumer(send)
    rest = (await consumer.made).send([{}])
    assert rest is not None
    rest.interrupt(asyncio.CancelledError())
    assert inner.cancelled()
    consumer.rest.put_nowait(rest)
    consumer.rest.put_nowait(None)
    await asyncio.wait_for(consumer.task, 30)
    assert seen == [consumer.task]


async def test_an_interruption_comes_before_an_error() -> None:
    async def send(message: Any) -> None:
        raise ConnectionError("gone")

    rest = DirectSends(send).send([{}])
    assert rest is not None
    rest.interrupt(LookupError("the consumer ends"))
    with pytest.raises(LookupError):
        await rest


@pytest.mark.parametrize("error", [ConnectionError("gone"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_one_that_fails_fails_in_the_consumers_task(error: BaseException) -> None:
    async def send(message: Any) -> None:
        raise error

    consumer = Consumer(send)
    rest = (await consumer.made).send([{}])
    assert rest is not None
    consumer.rest.put_nowait(rest)
    await asyncio.wait([consumer.task])
    assert (
        consumer.task.cancelled() if isinstance(error, asyncio.CancelledError) else consumer.task.exception() is error
    )


async def test_what_send_returns_need_not_be_a_coroutine() -> None:
    room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    consumer = Consumer(lambda message: room)
    rest = (await consumer.made).send([{}])
    assert rest is not None
    consumer.rest.put_nowait(rest)
    consumer.rest.put_nowait(None)
    room.set_result(None)
    await asyncio.wait_for(consumer.task, 30)
