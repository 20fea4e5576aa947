"""Clients that come back at once to a server that was killed: whether all resume, how long it takes, what it costs."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import random
from statistics import quantiles
from time import perf_counter
from typing import Any

import msgspec
import uvloop
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from django_anyio_channels import AnyioChannelLayer
from tests.support.brokers.server import Server, accepts_connections, free_port, new_folder
from tests.support.paths import ROOT

from ..harness.contenders import Contender
from ..harness.deliveries import Tally, patiently
from ..harness.measuring import Figures
from .servers import variables_of

_SECONDS = 120.0
_FIRST, _LONGEST, _PATIENCE, _DOUBLINGS = 2.0, 30.0, 10.0, 3
"""Those of ``client.js``."""
_CONNECTING_AT_ONCE = 100
"""When they connect for the first time; when they come back, all do at once."""
_OTHER_FILES = 200
"""Files that a process has besides the clients' connections."""
_BEFORE, _CLOSING = "before", "closing"
_MISSED = tuple(f"missed {number}" for number in range(10))

_decode = msgspec.json.Decoder().decode


def coming_back(
    contender: Contender,
    *,
    layer: Mapping[str, Any],
    sockets: int,
    groups: int,
    has_survived: bool,
    like_browsers: bool = False,
) -> Figures:
    """WebSockets in groups; the server is killed, messages are sent, it starts again, and all clients come at once.

    ``layer`` is the server's in ``CHANNEL_LAYERS``. If its history has not survived the server, no messages can be
    sent meanwhile, and each client must be told that some may be missing. A client is back when it has what it missed,
    or that word; this counts from the moment when the server accepts connections, a join from its frame.

    With ``like_browsers`` they do as ``client.js``: each waits for a random time, and gives up an attempt if the
    handshake or the hello is not answered in 10 s, which doubles with each failure.
    """
    _allow_files(sockets + _OTHER_FILES)
    server = _server(layer)
    herd = _Herd(server.port, sockets, [f"room.{number}" for number in range(groups)])
    try:
        server.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            values = runner.run(_measure(server, layer, herd, _MISSED if has_survived else (), like_browsers))
    finally:
        server.stop()
    right = wrong = 0
    expected = [_BEFORE, *(_MISSED if has_survived else ()), _CLOSING]
    for client in herd.clients:
        outcomes = [*zip(client.joins, [True, has_survived], strict=False), *zip(client.got, expected, strict=False)]
        found = sum(got == wanted for got, wanted in outcomes)
        right += found
        wrong += len(client.joins) + len(client.got) - found
    return Figures(values, Tally(sockets * (2 + len(expected)), right, wrong))


async def _measure(
    server: Server, layer: Mapping[str, Any], herd: _Herd, missed: Sequence[str], like_browsers: bool
) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    await herd.connect(_CONNECTING_AT_ONCE)
    await herd.until_all(lambda client: bool(client.joins))
    await herd.publish(_BEFORE)
    await herd.until_all(lambda client: bool(client.got))
    await loop.run_in_executor(None, server.kill)
    await herd.until_all(lambda client: client.connection is None)
    if missed:
        own = AnyioChannelLayer(**layer["CONFIG"])
        for text in missed:
            await asyncio.gather(*(own.group_send(group, _message(text)) for group in herd.groups))
        await own.close()
    await loop.run_in_executor(None, server.start)
    assert server.process is not None
    before, began = _cpu_seconds(server.process.pid), perf_counter()
    await herd.connect(len(herd.clients), like_browsers=like_browsers)
    await herd.until_all(lambda client: len(client.joins) == 2 and len(client.got) == 1 + len(missed))
    cpu = _cpu_seconds(server.process.pid) - before
    back = [client.changed - began for client in herd.clients]
    joins = [client.changed - client.joined for client in herd.clients]
    await herd.publish(_CLOSING)
    await herd.until_all(lambda client: client.got[-1] == _CLOSING)
    for client in herd.clients:
        assert client.connection is not None
        client.connection.close()
    await herd.until_all(lambda client: client.connection is None)
    return {
        "s until all are back": max(back),
        "s until half are back": quantiles(back, n=100)[49],
        "p99 ms of a join": quantiles(joins, n=100)[98] * 1000,
        "attempts a client": sum(client.attempts for client in herd.clients) / len(back),
        "CPU s of the server": cpu,
        "CPU ms a client": cpu * 1000 / len(back),
    }


class _Herd:
    """All clients."""

    def __init__(self, port: int, sockets: int, groups: Sequence[str]) -> None:
        self.address = f"ws://127.0.0.1:{port}"
        self.groups = groups
        self.clients = [_Client(self, groups[number % len(groups)]) for number in range(sockets)]
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something has happened to a client."""
        self._changed.set()

    async def until_all(self, condition: Callable[[_Client], bool]) -> None:
        """Wait until the condition has been true of each client."""
        for client in self.clients:
            while not condition(client):
                self._changed.clear()
                await patiently(self._changed.wait())

    async def connect(self, at_once: int, *, like_browsers: bool = False) -> None:
        """Connect all clients, so many at a time."""
        gate = asyncio.Semaphore(at_once)

        async def connect(client: _Client) -> None:
            async with gate:
                await client.connect(like_browsers=like_browsers)

        await asyncio.gather(*map(connect, self.clients))

    async def publish(self, text: str) -> None:
        """Have the server send a text to all groups."""
        done = asyncio.get_running_loop().create_future()
        transport, _ = await ws_connect(lambda: _Answer(done), f"{self.address}/control")
        transport.send(WSMsgType.TEXT, json.dumps([self.groups, text]).encode())
        await patiently(done)
        transport.disconnect()


class _Client:
    """A client in one group, which keeps its position."""

    def __init__(self, herd: _Herd, group: str) -> None:
        self.joins: list[bool] = []
        """Of each join, whether it was complete."""
        self.got: list[str] = []
        self.connection: _Connection | None = None
        self.attempts = 0
        """How often it has tried to connect, the last time."""
        self.joined = self.changed = 0.0
        """When it has sent its last join, and when it has got the last frame."""
        self._herd = herd
        self._group = group
        self._position: str | None = None

    async def connect(self, *, like_browsers: bool) -> None:
        """Connect, again and again until the server has said hello, and join."""
        self.attempts = 0
        while True:
            if like_browsers:
                await asyncio.sleep(random() * min(_LONGEST, _FIRST * 2**self.attempts))
            patience = _PATIENCE * 2 ** min(self.attempts, _DOUBLINGS) if like_browsers else _SECONDS
            self.attempts += 1
            self.connection = connection = _Connection(self)
            try:
                await ws_connect(
                    lambda connection=connection: connection,
                    f"{self._herd.address}/room",
                    websocket_handshake_timeout=patience,
                    read_buffer_init_size=2048,
                )
                await asyncio.wait_for(connection.greeted, patience)
            except (OSError, WSError):  # one of them is TimeoutError
                self.connection = None
                connection.close()
            else:
                return

    def frames(self) -> list[dict[str, Any]]:
        """Return what it sends first."""
        self.joined = perf_counter()
        return [
            {"type": "hello", "version": 1},
            {"type": "join", "group": self._group, "since": self._position},
        ]

    def receive(self, frame: dict[str, Any]) -> None:
        """Take a frame of the server."""
        self._position = frame.get("position") or self._position
        if frame["type"] == "joined":
            self.joins.append(frame["complete"])
        elif frame["type"] != "hello":
            self.got.append(frame.get("message", str(frame)))
        self.changed = perf_counter()
        self._herd.changed()

    def lost(self) -> None:
        """Forget the connection."""
        self.connection = None
        self._herd.changed()


class _Connection(WSListener):
    """One connection of a client, which takes no notice of those that it has given up."""

    def __init__(self, client: _Client) -> None:
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client = client
        self._transport: WSTransport | None = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        for frame in self._client.frames():
            transport.send(WSMsgType.TEXT, json.dumps(frame).encode())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError("closed before the server said hello"))
            self.greeted.exception()  # nobody may wait for it any more
        if self._client.connection is self:
            self._client.lost()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT and self._client.connection is self:
            if not self.greeted.done():
                self.greeted.set_result(None)
            self._client.receive(_decode(frame.get_payload_as_bytes()))


class _Answer(WSListener):
    """Whether anything was answered."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self._done = done

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if not self._done.done():
            self._done.set_result(None)


def _message(text: str) -> dict[str, Any]:
    return {"type": "group.message", "message": text}


def _server(layer: Mapping[str, Any]) -> Server:
    port = free_port()
    options = [f"--port={port}", "--log-level=critical", "--ws=websockets", "--backlog=4096"]
    return Server(
        name="uvicorn",
        port=port,
        command=[sys.executable, "-m", "uvicorn", *options, "benchmarks.websocket.resumable:application"],
        answers=accepts_connections(port),
        folder=new_folder("uvicorn"),
        environment={**variables_of({"CHANNEL_LAYERS": {"default": layer}}), "PYTHONPATH": str(ROOT)},
    )


def _allow_files(count: int) -> None:
    """Have this process, and those that it starts, open so many files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise ValueError(f"a process may have {most} open files, and this needs {count}: see ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count if most == resource.RLIM_INFINITY else most, most))


def _cpu_seconds(pid: int) -> float:
    """Seconds that a process has computed (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
