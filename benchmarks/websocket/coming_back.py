"""Clients that come back at once to a server that was killed: whether all resume, how long it takes, what it costs."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
_CONNECTING_AT_ONCE = 100
"""When they connect for the first time; when they come back, all do at once."""
_OTHER_FILES = 200
"""Files that a process has besides the clients' connections."""
_BEFORE, _CLOSING = "before", "closing"
_MISSED = tuple(f"missed {number}" for number in range(10))

_decode = msgspec.json.Decoder().decode


def coming_back(
    contender: Contender, *, layer: Mapping[str, Any], sockets: int, groups: int, has_survived: bool
) -> Figures:
    """WebSockets in groups; the server is killed, messages are sent, it starts again, and all clients come at once.

    ``layer`` is the server's in ``CHANNEL_LAYERS``. If its history has not survived the server, no messages can be
    sent meanwhile, and each client must be told that some may be missing. A client is back when it has what it missed,
    or that word; this counts from the moment when the server accepts connections, a join from its frame.
    """
    _allow_files(sockets + _OTHER_FILES)
    server = _server(layer)
    herd = _Herd(server.port, sockets, [f"room.{number}" for number in range(groups)])
    try:
        server.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            values = runner.run(_measure(server, layer, herd, _MISSED if has_survived else ()))
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


async def _measure(server: Server, layer: Mapping[str, Any], herd: _Herd, missed: Sequence[str]) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    await herd.connect(_CONNECTING_AT_ONCE)
    await herd.until_all(lambda client: bool(client.joins))
    await herd.publish(_BEFORE)
    await herd.until_all(lambda client: bool(client.got))
    await loop.run_in_executor(None, server.kill)
    await herd.until_all(lambda client: not client.is_open)
    if missed:
        own = AnyioChannelLayer(**layer["CONFIG"])
        for text in missed:
            await asyncio.gather(*(own.group_send(group, _message(text)) for group in herd.groups))
        await own.close()
    await loop.run_in_executor(None, server.start)
    assert server.process is not None
    before, began = _cpu_seconds(server.process.pid), perf_counter()
    await herd.connect(len(herd.clients))
    await herd.until_all(lambda client: len(client.joins) == 2 and len(client.got) == 1 + len(missed))
    cpu = _cpu_seconds(server.process.pid) - before
    back = [client.changed - began for client in herd.clients]
    joins = [client.changed - client.joined for client in herd.clients]
    await herd.publish(_CLOSING)
    await herd.until_all(lambda client: client.got[-1] == _CLOSING)
    for client in herd.clients:
        client.disconnect()
    await herd.until_all(lambda client: not client.is_open)
    return {
        "s until all are back": max(back),
        "s until half are back": quantiles(back, n=100)[49],
        "p99 ms of a join": quantiles(joins, n=100)[98] * 1000,
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

    async def connect(self, at_once: int) -> None:
        """Connect all clients, so many at a time."""
        gate = asyncio.Semaphore(at_once)

        async def connect(client: _Client) -> None:
            async with gate:
                await client.connect()

        await asyncio.gather(*map(connect, self.clients))

    async def publish(self, text: str) -> None:
        """Have the server send a text to all groups."""
        done = asyncio.get_running_loop().create_future()
        transport, _ = await ws_connect(lambda: _Answer(done), f"{self.address}/control")
        transport.send(WSMsgType.TEXT, json.dumps([self.groups, text]).encode())
        await patiently(done)
        transport.disconnect()


class _Client(WSListener):
    """A client in one group, which keeps its position."""

    def __init__(self, herd: _Herd, group: str) -> None:
        self.joins: list[bool] = []
        """Of each join, whether it was complete."""
        self.got: list[str] = []
        self.is_open = False
        self.joined = self.changed = 0.0
        """When it has sent its last join, and when it has got the last frame."""
        self._herd = herd
        self._group = group
        self._position: str | None = None
        self._transport: WSTransport

    async def connect(self) -> None:
        """Connect, again and again until that has succeeded, and join."""
        while not self.is_open:
            try:
                await ws_connect(
                    lambda: self,
                    f"{self._herd.address}/room",
                    websocket_handshake_timeout=_SECONDS,
                    read_buffer_init_size=2048,
                )
            except (OSError, WSError):
                await asyncio.sleep(0.1)

    def disconnect(self) -> None:
        self._transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport, self.is_open = transport, True
        transport.send(WSMsgType.TEXT, b'{"type":"hello","version":1}')
        join = {"type": "join", "group": self._group, "since": self._position}
        transport.send(WSMsgType.TEXT, json.dumps(join).encode())
        self.joined = perf_counter()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.is_open = False
        self._herd.changed()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        content = _decode(frame.get_payload_as_bytes())
        self._position = content.get("position") or self._position
        if content["type"] == "joined":
            self.joins.append(content["complete"])
        elif content["type"] != "hello":
            self.got.append(content.get("message", str(content)))
        self.changed = perf_counter()
        self._herd.changed()


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
