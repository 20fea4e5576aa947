"""`django.process.graceful`: what one process does; `tests/asgi/test_graceful.py` has the servers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from channels.layers import channel_layers
from django.test import override_settings

from django_anyio_channels import get_channel_layer, graceful
from django_anyio_channels.django.process import graceful as module
from django_anyio_channels.django.process.ends import SigtermHandler
from django_anyio_channels.django.process.graceful import RESTART, SERVICE_RESTART, Graceful

from ..helpers import soon

OURS = "django_anyio_channels.AnyioChannelLayer"


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """An application without a lifespan, whose WebSockets last until they are closed."""
    if scope["type"] == "lifespan":
        raise ValueError("No application configured for scope type 'lifespan'")
    await receive()


class Server:
    """A server with a Python function as its handler of SIGTERM, as Uvicorn has one."""

    def __init__(self) -> None:
        self.servers = [SimpleNamespace(close=lambda: self.calls.append("closed"))]
        self.calls: list[str] = []
        self.ended = asyncio.Event()

    def handle_exit(self, number: int, frame: object) -> None:
        self.calls.append(signal.Signals(number).name)
        self.ended.set()


@pytest.fixture(autouse=True)
def former() -> Iterator[None]:
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


class Window:
    """One WebSocket of an application."""

    def __init__(self, application: Any, refused: tuple[int, ...] = ()) -> None:
        self.sent: list[Any] = []
        self.left = self
        """Whose browser leaves when this one is closed."""
        self._refused = refused
        self._closed = asyncio.Event()
        self.task = asyncio.ensure_future(application({"type": "websocket"}, self._receive, self._send))

    async def _receive(self) -> Any:
        await self._closed.wait()
        return {"type": "websocket.disconnect", "code": 1012}

    async def _send(self, event: Any) -> None:
        if event["code"] in self._refused:
            raise ValueError("invalid close code")
        self.sent.append(event["code"])
        self._closed.set()
        self.left._closed.set()


@pytest.mark.parametrize("seconds", [-1, 3601, "10", float("nan"), True])
def test_wrong_times_are_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="it must be a number of seconds from 0 to 3600"):
        graceful(serve, drain_seconds=seconds)


def test_a_handler_in_python_is_called_after_the_drain() -> None:
    async def main() -> None:
        server = Server()
        signal.signal(signal.SIGTERM, server.handle_exit)
        application = Graceful(serve, 0.2)
        windows = [Window(application, refused) for refused in ((), (SERVICE_RESTART,), (SERVICE_RESTART, RESTART))]
        gone = windows[0].left = Window(application)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(server.ended.wait())
        assert [window.sent for window in (*windows, gone)] == [[SERVICE_RESTART], [RESTART], [], []]
        assert server.calls == ["closed", "SIGTERM"]
        assert module._servers(SigtermHandler(server.handle_exit)) == server.servers
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit
        late = Window(application)
        late._closed.set()
        await soon(late.task)
        assert late.sent == [SERVICE_RESTART]
        windows[-1]._closed.set()
        await soon(asyncio.wait([window.task for window in windows]))

    asyncio.run(main())


def test_what_is_sent_behind_the_close_is_dropped() -> None:
    async def main() -> None:
        server, sent, events = Server(), list[str](), asyncio.Queue[Any]()
        signal.signal(signal.SIGTERM, server.handle_exit)

        async def send(event: Any) -> None:
            assert "websocket.close" not in sent, "servers raise an error"
            sent.append(event["type"])
            if event["type"] == "websocket.close":
                events.put_nowait({"type": "websocket.disconnect"})

        async def busy(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": "late"})
            await send({"type": "websocket.close"})

        websocket = asyncio.ensure_future(Graceful(busy, 0)({"type": "websocket"}, events.get, send))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(websocket)
        await soon(server.ended.wait())
        assert sent == ["websocket.accept", "websocket.close"]

    asyncio.run(main())


def test_a_handler_of_the_event_loop_is_replaced_and_the_other_signal_raised() -> None:
    async def main() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        application = Graceful(serve, 3600)
        window, other = Window(application), Window(application)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(window.task)
        assert not ended.is_set(), "the other one has an hour"
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(ended.wait())
        assert other.sent == []
        other._closed.set()
        await soon(other.task)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    asyncio.run(main())


def test_without_websockets_a_process_ends_at_once_and_an_error_does_not_keep_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        server = Server()
        signal.signal(signal.SIGTERM, server.handle_exit)
        application = Graceful(serve, 3600)
        application._sigterm.install()
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(server.ended.wait())
        another = Graceful(serve, None)
        monkeypatch.setattr(module, "_drain_seconds", dict[str, Any]().popitem)
        another._sigterm.install()
        server.ended.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        await soon(server.ended.wait())

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "Could not close all WebSockets"
    ]


def test_nothing_is_installed_in_another_thread_or_where_nothing_handles_it() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    applications = [Graceful(serve, 1), Graceful(serve, 1)]

    async def main(application: Graceful) -> None:
        application._sigterm.install()

    thread = threading.Thread(target=lambda: asyncio.run(main(applications[0])))
    thread.start()
    thread.join()
    asyncio.run(main(applications[1]))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert [application._sigterm._is_installed for application in applications] == [False, True]


def test_a_refusal_has_a_status_where_the_server_can_send_it() -> None:
    async def main() -> None:
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(event)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        application = Graceful(serve, 0)
        await application._drain()
        await application({"type": "websocket", "extensions": {"websocket.http.response": {}}}, receive, send)
        assert [event.get("status") for event in sent] == [503, None]
        await application({"type": "http"}, receive, send)
        assert len(sent) == 2

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(main())


def test_the_time_is_that_of_the_default_layer() -> None:
    for config, seconds in (
        ({"default": {"BACKEND": OURS, "CONFIG": {"drain_seconds": 7}}}, 7),
        ({"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, 20),
        ({}, 20),
    ):
        with override_settings(CHANNEL_LAYERS=config):
            assert module._drain_seconds() == seconds


# ---- lifespan -------------------------------------------------------------------------------------------------------


async def lifespan_of(application: Any) -> list[str]:
    """Run an application from its start to its end, and return what it sends."""
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> Any:
        return {"type": next(events)}

    async def send(event: Any) -> None:
        sent.append(event["type"])

    await soon(Graceful(application, 1)({"type": "lifespan"}, receive, send))
    return sent


async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
    for _ in range(2):
        await send({"type": f"{(await receive())['type']}.complete"})


async def without_an_answer(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise ValueError("no lifespan")


async def failing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed"})
    raise ValueError("the database is down")


@pytest.mark.parametrize("application", [serve, with_lifespan, without_an_answer])
@override_settings(
    CHANNEL_LAYERS={"default": {"BACKEND": OURS}, "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
)
def test_the_layers_are_closed_at_the_end_of_the_lifespan(application: Callable[..., Any]) -> None:
    async def main() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        layer = get_channel_layer()
        assert channel_layers["other"] is not layer
        await layer.new_channel()
        assert await lifespan_of(application) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert layer.statistics()["nodes"] == 0

    asyncio.run(main())


def test_an_application_that_cannot_start_is_not_started() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(ValueError, match="the database is down"):
        asyncio.run(lifespan_of(failing))
