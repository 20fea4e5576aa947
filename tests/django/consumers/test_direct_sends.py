"""`django.consumers.direct_sends`: what is sent from outside of a consumer's task behaves as if it were sent in it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from django_anyio_channels.django.consumers.direct_sends import DirectSends, Rest, _ContextOfTask

pytestmark = pytest.mark.anyio

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="of the sender")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def nothing() -> None:
    """Await without a wait."""


async def send_in(sends: DirectSends, *messages: dict[str, Any]) -> Rest | None:
    """Send in a callback of the event loop."""
    sent: asyncio.Future[Rest | None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: sent.set_result(sends.send(list(messages))))
    return await sent


class Consumer:
    """A task that has made `DirectSends` and carries on what they return."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self.rest: asyncio.Queue[Awaitable[None] | None] = asyncio.Queue()
        self.made: asyncio.Future[DirectSends] = asyncio.get_running_loop().create_future()
        self.send = send
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        VARIABLE.set("of the consumer")
        self.made.set_result(await DirectSends.of_this_task(self.send))
        while (rest := await self.rest.get()) is not None:
            await rest


async def test_a_send_that_has_room_has_ended_in_the_name_of_the_consumer() -> None:
    seen: list[Any] = []

    async def send(message: Any) -> None:
        async with asyncio.timeout(30):  # which asks for the task
            await nothing()
            seen.append((message, asyncio.current_task(), VARIABLE.get()))

    consumer = Consumer(send)
    assert await send_in(await consumer.made, {"text": "sent"}) is None
    assert VARIABLE.get() == "of the sender"
    assert seen == [({"text": "sent"}, consumer.task, "of the consumer")]
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
    sends, rests = await consumer.made, list[Rest | None]()
    asyncio.get_running_loop().call_soon(lambda: rests.append(sends.send(messages)))
    while not rests:
        await asyncio.sleep(0)
    [rest] = rests
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
    rest = await send_in(await consumer.made, {})
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
    rest = await send_in(await consumer.made, {})
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
    rest = await send_in(await consumer.made, {})
    assert rest is not None
    rest.interrupt(asyncio.CancelledError())
    assert inner.cancelled()
    consumer.rest.put_nowait(rest)
    consumer.rest.put_nowait(None)
    await asyncio.wait_for(consumer.task, 30)
    assert seen == [consumer.task]


async def test_a_cancellation_waits_for_the_task_that_it_cancels() -> None:
    seen: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async def send(message: Any) -> None:
        try:
            await inner
        finally:
            seen.append("sent")

    inner = asyncio.ensure_future(clean_up())
    consumer = Consumer(send)
    rest = await send_in(await consumer.made, {})
    assert rest is not None
    rest.interrupt(asyncio.CancelledError())
    consumer.rest.put_nowait(rest)
    await asyncio.wait([consumer.task], timeout=30)
    assert consumer.task.cancelled()
    assert seen == ["cleaned up", "sent"]


async def test_a_cancellation_that_comes_too_late_for_what_it_waits_for_ends_it_all_the_same() -> None:
    inner = asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        await inner

    consumer = Consumer(send)
    rest = await send_in(await consumer.made, {})
    assert rest is not None
    inner.set_result(None)
    rest.interrupt(asyncio.CancelledError())
    consumer.rest.put_nowait(rest)
    await asyncio.wait([consumer.task], timeout=30)
    assert consumer.task.cancelled()


async def test_a_send_has_one_context_which_is_that_of_the_handlers() -> None:
    async def send(message: Any) -> None:
        token = VARIABLE.set("of the send")
        await asyncio.sleep(0)
        VARIABLE.reset(token)  # fails in another context
        VARIABLE.set(VARIABLE.get() + ", changed by the send")

    class Handling(Consumer):
        async def _run(self) -> None:
            self.made.set_result(await DirectSends.of_this_task(self.send))
            VARIABLE.set("of a handler")
            rest = await self.rest.get()
            assert rest is not None
            await rest
            assert VARIABLE.get() == "of a handler, changed by the send"

    consumer = Handling(send)
    sends = await consumer.made
    consumer.rest.put_nowait(await send_in(sends, {}))
    await asyncio.wait_for(consumer.task, 30)


async def test_the_context_of_a_task_that_does_not_tell_it_is_a_copy() -> None:
    token = VARIABLE.set("of this task")
    awaited = _ContextOfTask()
    awaited.add_done_callback(lambda done: None)
    VARIABLE.reset(token)
    assert (await awaited)[VARIABLE] == "of this task"


async def test_an_interruption_comes_before_an_error() -> None:
    async def send(message: Any) -> None:
        raise ConnectionError("gone")

    consumer = Consumer(send)
    rest = await send_in(await consumer.made, {})
    assert rest is not None
    rest.interrupt(LookupError("the consumer ends"))
    consumer.rest.put_nowait(rest)
    with pytest.raises(LookupError):
        await asyncio.wait_for(consumer.task, 30)


@pytest.mark.parametrize("error", [ConnectionError("gone"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_one_that_fails_fails_in_the_consumers_task(error: BaseException) -> None:
    async def send(message: Any) -> None:
        raise error

    consumer = Consumer(send)
    rest = await send_in(await consumer.made, {})
    assert rest is not None
    consumer.rest.put_nowait(rest)
    await asyncio.wait([consumer.task])
    assert (
        consumer.task.cancelled() if isinstance(error, asyncio.CancelledError) else consumer.task.exception() is error
    )


async def test_what_send_returns_need_not_be_a_coroutine() -> None:
    room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    consumer = Consumer(lambda message: room)
    rest = await send_in(await consumer.made, {})
    assert rest is not None
    consumer.rest.put_nowait(rest)
    consumer.rest.put_nowait(None)
    room.set_result(None)
    await asyncio.wait_for(consumer.task, 30)
