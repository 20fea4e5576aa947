"""`django.consumers.sync_sends`: what a handler sends arrives in order, and it does not wait for each message."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from django_anyio_channels.django.consumers import sync_sends
from django_anyio_channels.django.consumers.sync_sends import SyncSends

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client:
    """Receives messages when it is open, and fails with the ones it is told to."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        self.received: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self._failing = failing

    async def send(self, message: int) -> None:
        await self.open.wait()
        if message in self._failing:
            raise ConnectionError(f"message {message} was refused")
        self.received.append(message)


async def handle(sends: SyncSends, handler: Callable[[], object]) -> None:
    """Run a handler as the dispatcher does."""
    async with sends:
        await sync_to_async(in_thread)(sends, handler)


def in_thread(sends: SyncSends, handler: Callable[[], object]) -> None:
    with sends.in_this_thread():
        handler()


def send_all(sends: SyncSends, messages: range) -> None:
    for message in messages:
        sends(message)


async def test_all_arrives_in_order_before_the_handler_counts_as_done() -> None:
    client = Client()
    sends = SyncSends(async_to_sync(client.send))
    for start in (0, 1000):
        await handle(sends, partial(send_all, sends, range(start, start + 1000)))
        assert client.received == list(range(start + 1000))


async def test_a_handler_is_ahead_of_its_client_by_so_many_messages_only() -> None:
    client = Client()
    client.open.clear()
    sends = SyncSends(async_to_sync(client.send))
    begun: list[int] = []

    def handler() -> None:
        for number in range(200):
            begun.append(number)
            sends(number)

    handling = asyncio.ensure_future(handle(sends, handler))
    async with asyncio.timeout(30):
        while len(begun) <= sync_sends._AHEAD:
            await asyncio.sleep(0.001)
    assert not handling.done()
    assert len(begun) == sync_sends._AHEAD + 1
    client.open.set()
    await handling
    assert client.received == list(range(200))


async def test_a_message_may_be_changed_and_sent_again() -> None:
    client: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        client.append(message)

    sends = SyncSends(async_to_sync(send))
    message = {"type": "websocket.send"}

    def handler() -> None:
        for number in range(100):
            message["text"] = str(number)
            sends(message)

    await handle(sends, handler)
    assert [message["text"] for message in client] == list(map(str, range(100)))


async def test_an_error_is_raised_by_a_later_send() -> None:
    client = Client(failing=(3,))
    sends = SyncSends(async_to_sync(client.send))
    caught = threading.Event()

    def handler() -> None:
        with pytest.raises(ConnectionError, match="message 3"):
            for number in range(10_000):
                sends(number)
        caught.set()

    await handle(sends, handler)
    assert caught.is_set()
    assert client.received[:3] == [0, 1, 2]
    # What comes next is sent again.
    await handle(sends, lambda: sends(20_000))
    assert client.received[-1] == 20_000


async def test_an_error_of_the_last_message_is_raised_at_the_end() -> None:
    async def refuse(message: int) -> None:
        raise RuntimeError(f"message {message} comes before websocket.accept")

    sends = SyncSends(async_to_sync(refuse))
    with pytest.raises(RuntimeError, match="message 1"):
        await handle(sends, lambda: sends(1))


async def test_a_client_that_has_gone_is_left_to_the_disconnect_that_follows(caplog: pytest.LogCaptureFixture) -> None:
    sends = SyncSends(async_to_sync(Client(failing=(1,)).send))
    with caplog.at_level(logging.INFO, "django_anyio_channels"):
        await handle(sends, lambda: sends(1))
    assert "A client disconnected before" in caplog.text
    assert "message 1" in caplog.text


async def test_an_error_of_the_handler_is_the_one_that_counts() -> None:
    client = Client(failing=(1,))
    sends = SyncSends(async_to_sync(client.send))

    def handler() -> None:
        sends(1)
        raise LookupError("the handler failed")

    with pytest.raises(LookupError):
        await handle(sends, handler)


async def test_other_threads_wait_for_the_message_to_be_sent() -> None:
    client = Client()
    sends = SyncSends(async_to_sync(client.send))
    await asyncio.to_thread(sends, 7)
    assert client.received == [7]


async def test_a_sender_that_is_cancelled_lets_the_handler_go_on() -> None:
    client = Client()
    client.open.clear()
    sends = SyncSends(async_to_sync(client.send))

    def handler() -> None:
        for number in range(200):
            sends(number)

    handling: Any = asyncio.ensure_future(handle(sends, handler))
    async with asyncio.timeout(30):
        while sends._sender is None:
            await asyncio.sleep(0.001)
    sends._sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling


async def test_a_sender_that_is_cancelled_before_it_begins_lets_the_handler_go_on() -> None:
    client = Client()
    sends = SyncSends(async_to_sync(client.send))
    start = sends._start

    def start_and_cancel() -> None:
        start()
        assert sends._sender is not None
        sends._sender.cancel()

    sends._start = start_and_cancel  # type: ignore[method-assign]

    def handler() -> None:
        for number in range(200):
            sends(number)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(handle(sends, handler), 30)
    assert client.received == []


async def test_errors_take_no_room() -> None:
    client = Client(failing=tuple(range(200)))
    sends = SyncSends(async_to_sync(client.send))
    caught: list[int] = []

    def handler() -> None:
        for number in range(200):
            try:
                sends(number)
            except ConnectionError:
                caught.append(number)
            while sends._is_sending:  # so that each of them fails by itself
                pass

    await handle(sends, handler)
    assert len(caught) > sync_sends._AHEAD


class Middleware:
    """Calls `sync_to_async` with each message, as middleware does that saves a session."""

    def __init__(self) -> None:
        self.client = Client()
        self.threads: set[int] = set()

    async def send(self, message: int) -> None:
        await self.client.open.wait()
        await sync_to_async(self._save)(message)
        await self.client.send(message)

    def _save(self, message: int) -> None:
        self.threads.add(threading.get_ident())
        if message < 0:
            raise LookupError(f"{message} cannot be saved")


async def test_what_is_awaited_may_need_the_thread_of_the_handler() -> None:
    middleware = Middleware()
    sends = SyncSends(async_to_sync(middleware.send))
    await handle(sends, partial(send_all, sends, range(200)))
    assert middleware.client.received == list(range(200))
    assert middleware.threads == {await sync_to_async(threading.get_ident)()}
    with pytest.raises(LookupError, match="-1 cannot be saved"):
        await handle(sends, partial(send_all, sends, range(-1, 100)))


async def test_what_is_awaited_may_need_the_thread_when_the_handler_is_done() -> None:
    middleware = Middleware()
    middleware.client.open.clear()
    sends = SyncSends(async_to_sync(middleware.send))
    handling = asyncio.ensure_future(handle(sends, partial(send_all, sends, range(2))))
    async with asyncio.timeout(30):
        while not (sends._sender and sends._thread.ident is None):
            await asyncio.sleep(0.001)
    middleware.client.open.set()
    await handling
    assert middleware.client.received == [0, 1]
    assert middleware.threads == {await sync_to_async(threading.get_ident)()}


async def test_a_call_is_not_made_for_a_sender_that_was_cancelled_meanwhile() -> None:
    middleware = Middleware()
    sends = SyncSends(async_to_sync(middleware.send))
    go_on = threading.Event()

    def handler() -> None:
        sends(1)
        go_on.wait(30)

    handling = asyncio.ensure_future(handle(sends, handler))
    async with asyncio.timeout(30):
        while sends._thread._calls.empty():
            await asyncio.sleep(0.001)
    assert sends._sender is not None
    sends._sender.cancel()
    await asyncio.wait([sends._sender])
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert not middleware.threads


@pytest.mark.parametrize("messages", [2, 200])
async def test_a_cancelled_consumer_does_not_wait_for_a_client_that_reads_nothing(messages: int) -> None:
    client = Client()
    client.open.clear()
    sends = SyncSends(async_to_sync(client.send))
    handling = asyncio.ensure_future(handle(sends, partial(send_all, sends, range(messages))))
    async with asyncio.timeout(30):
        while not (sends._sender and (sends._is_blocked or sends._thread.ident is None)):
            await asyncio.sleep(0.001)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        await sync_to_async(bool)()  # the thread is free
    assert not client.received


async def test_a_loop_that_has_ended_sends_nothing_and_holds_nobody() -> None:
    async def make() -> SyncSends:
        return SyncSends(async_to_sync(Client().send))

    sends = await asyncio.to_thread(asyncio.run, make())

    def handler() -> None:
        for number in range(2 * sync_sends._AHEAD):
            with pytest.raises(RuntimeError, match="closed"):
                sends(number)

    await sync_to_async(in_thread)(sends, handler)


async def test_who_is_cancelled_while_the_last_message_is_sent_cancels_that() -> None:
    client = Client()
    sends = SyncSends(async_to_sync(client.send))
    sender = asyncio.ensure_future(asyncio.sleep(3600))
    sends._sender = sender
    entered = asyncio.Event()

    async def end() -> None:
        async with sends:
            entered.set()

    ending = asyncio.ensure_future(end())
    await entered.wait()
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    await asyncio.wait([sender])
    assert sender.cancelled()
