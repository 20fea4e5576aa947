"""`graceful`: on SIGTERM the WebSockets of a process are closed little by little before its server ends.

Servers close all of them at once, and all browsers come back at once. ASGI knows only the end of the ``lifespan``,
after that. So the handler of SIGTERM that the server has installed is called later:

* Uvicorn and Daphne install a Python function, which is replaced and then called.
* Hypercorn and Granian add a handler to the event loop, which nobody can ask for. It is replaced, and SIGINT raised,
  which means the same to both.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from types import FrameType
from typing import Any

from ...core.exceptions import MissingDriver

try:
    from channels.exceptions import InvalidChannelLayerError
    from channels.layers import channel_layers
except ModuleNotFoundError as error:
    raise MissingDriver("graceful() needs Django and Channels: pip install django-anyio-channels[django]") from error

from ..base import LayerBase
from .ends import SigtermHandler, watch

logger = logging.getLogger("django_anyio_channels")

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

SERVICE_RESTART = 1012
"""The code with which WebSockets are closed: the browser should come back."""
RESTART = 4012
"""The same where the server accepts no code below 3000 from an application but 1000: Daphne."""

_SECONDS_TO_CLOSE = 2.0


def graceful(application: Application, drain_seconds: float | None = None) -> Application:
    """Return an ASGI application whose WebSockets are closed on SIGTERM, over ``drain_seconds``, before the server is.

    By default these are ``drain_seconds`` of the CONFIG of the default layer. From SIGTERM on it refuses WebSockets,
    and under Uvicorn the process takes no connections at all; requests that came before are answered. A second SIGTERM
    ends it at once. It answers to the ``lifespan``, if ``application`` does not, and closes the layers at its end.
    """
    if drain_seconds is not None and not (type(drain_seconds) in (int, float) and 0 <= drain_seconds <= 3600):
        raise ValueError(f"drain_seconds is {drain_seconds!r}; it must be a number of seconds from 0 to 3600")
    return Graceful(application, drain_seconds)


class Graceful:
    """What `graceful` returns. One object is for one event loop."""

    def __init__(self, application: Application, drain_seconds: float | None) -> None:
        self._application = application
        self._drain_seconds = drain_seconds
        self._sigterm = _Sigterm(self._drain)
        self._open: dict[_WebSocket, None] = {}
        self._is_draining = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._sigterm.install()
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._application(scope, receive, send)
        elif self._is_draining:
            await receive()
            await _refuse(scope, send)
        else:
            websocket = _WebSocket(send)
            self._open[websocket] = None
            try:
                await self._application(scope, receive, websocket.send)
            finally:
                del self._open[websocket]

    async def _lifespan(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let the application answer, or else do it."""
        events: list[str] = []

        async def noted_receive() -> Event:
            event = await receive()
            events.append(event["type"])
            return event

        async def noted_send(event: Event) -> None:
            events.append(event["type"])
            if event["type"] == "lifespan.shutdown.complete":
                await _close_layers()
            await send(event)

        try:
            await self._application(scope, noted_receive, noted_send)
        except Exception:
            if any(event.endswith(("complete", "failed")) for event in events):
                raise
            logger.debug("The application has no lifespan", exc_info=True)
            if not events:
                await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await noted_send({"type": "lifespan.shutdown.complete"})

    async def _drain(self) -> None:
        self._is_draining = True
        websockets = list(self._open)
        seconds = _drain_seconds() if self._drain_seconds is None else self._drain_seconds
        logger.info("SIGTERM: closes %d WebSockets within %g s", len(websockets), seconds)
        loop = asyncio.get_running_loop()
        began = loop.time()
        closing = set()
        for number, websocket in enumerate(websockets):
            await asyncio.sleep(max(0.0, began + seconds * number / len(websockets) - loop.time()))
            if websocket in self._open:
                closing.add(loop.create_task(websocket.close()))
        if closing:  # a browser that does not answer is the server's to end
            await asyncio.wait(closing, timeout=_SECONDS_TO_CLOSE)


class _WebSocket:
    """A WebSocket of the application, which may be closed while the application sends."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_closed = False

    async def send(self, event: Event) -> None:
        """Send what the application sends; behind a close it is dropped, as if the browser had gone."""
        if not self._is_closed:
            await self._send(event)

    async def close(self) -> None:
        """Close it, unless it has just been."""
        self._is_closed = True
        for code in (SERVICE_RESTART, RESTART):
            try:
                await self._send({"type": "websocket.close", "code": code, "reason": "Service restart"})
            except Exception:
                logger.debug("Could not close a WebSocket with the code %d", code, exc_info=True)
            else:
                return
        self._is_closed = False


class _Sigterm:
    """Has ``drain`` awaited between SIGTERM and what the server does then."""

    def __init__(self, drain: Callable[[], Awaitable[None]]) -> None:
        self._drain = drain
        self._former: Any = None
        self._is_installed = False
        self._draining: asyncio.Future[None] | None = None

    def install(self) -> None:
        """Take the place of the server's handler, in the main thread, once."""
        if self._is_installed or threading.current_thread() is not threading.main_thread():
            return
        self._is_installed = True
        self._loop = asyncio.get_running_loop()
        watch()
        self._former = signal.getsignal(signal.SIGTERM)
        if _is_of_loop(self._former):
            self._loop.add_signal_handler(signal.SIGTERM, self._begin)
        elif callable(self._former):
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._draining is None:
            for server in _servers(self._former):
                server.close()
            self._draining = asyncio.ensure_future(self._drain())
            self._draining.add_done_callback(self._end)
        else:
            self._draining.cancel()

    def _end(self, draining: asyncio.Future[None]) -> None:
        if not draining.cancelled() and draining.exception() is not None:
            logger.error("Could not close all WebSockets", exc_info=draining.exception())
        if _is_of_loop(self._former):
            signal.raise_signal(signal.SIGINT)
        else:
            signal.signal(signal.SIGTERM, self._former)
            self._former(signal.SIGTERM, None)


def _is_of_loop(handler: Any) -> bool:
    """Return whether event loops install this function for what ``add_signal_handler`` adds."""
    module = getattr(handler, "__module__", None) or type(getattr(handler, "__self__", None)).__module__
    return module.split(".")[0] in ("asyncio", "uvloop")


def _servers(handler: Any) -> list[Any]:
    """Return the listening servers of Uvicorn, whose handler this is."""
    if isinstance(handler, SigtermHandler):
        handler = handler.former
    return list(getattr(getattr(handler, "__self__", None), "servers", ()))


async def _refuse(scope: Any, send: Send) -> None:
    if "websocket.http.response" in scope.get("extensions", {}):
        headers = [(b"retry-after", b"1"), (b"connection", b"close")]
        await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": SERVICE_RESTART})


def _drain_seconds() -> float:
    with suppress(InvalidChannelLayerError, KeyError):
        layer = channel_layers["default"]
        if isinstance(layer, LayerBase):
            return layer.drain_seconds
    return 20.0


async def _close_layers() -> None:
    """Hand over what the layers of this process hold, while the event loop runs."""
    for layer in list(channel_layers.backends.values()):
        if isinstance(layer, LayerBase):
            await layer.close()
