"""Links that are cut again and again: 100 % delivered, none twice, in order, over WebSocket and server-sent events.

The light clients speak the protocol without a browser; Chromium does the same in `test_client_real`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.asgi.serving import serve
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, running

SITE = "tests.browser.site"
CLIENTS, MESSAGES, CUTS = 100, 60, 3
PATIENCE = 60


@pytest.fixture(params=["memory", "streams"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The site on a broker with a history."""
    broker = brokers.plain("redis") if request.param == "streams" else None
    with nullcontext() if broker is None else brokers.running(broker):
        server = serve("uvicorn", SITE, "memory://" if broker is None else brokers.with_streams(broker.url))
        with running(server):
            yield server


class LightClient:
    """A client that keeps its position and counts what it gets."""

    def __init__(self, number: int, port: int, cut: asyncio.Event) -> None:
        self.number = number
        self.port = port
        self.got: list[int] = []
        self.missed = 0
        self.cuts = 0
        self.is_in = asyncio.Event()
        self._position: str | None = None
        self._cut = cut

    @property
    def is_done(self) -> bool:
        return len(self.got) >= MESSAGES

    async def run(self) -> None:
        session = self._events if self.number % 2 else self._websocket
        while not self.is_done:
            reading = asyncio.ensure_future(session())
            cutting = asyncio.ensure_future(self._cut.wait())
            done, _ = await asyncio.wait([reading, cutting], return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, cutting):
                task.cancel()
            await asyncio.gather(reading, cutting, return_exceptions=True)
            if cutting in done:
                self.cuts += 1
                while self._cut.is_set():
                    await asyncio.sleep(0.001 * random.random())

    def _take(self, frame: Any) -> None:
        self._position = frame.get("position") or self._position
        if frame["type"] == "joined":
            self.missed += not frame["complete"]
            self.is_in.set()
        elif frame["type"] == "message":
            self.got.append(int(frame["message"]))

    async def _websocket(self) -> None:
        async with connect(f"ws://127.0.0.1:{self.port}/ws/", proxy=None, close_timeout=0.1) as socket:
            await socket.send(json.dumps({"type": "hello", "version": 1}))
            await socket.send(json.dumps({"type": "join", "group": "drops", "since": self._position}))
            while not self.is_done:
                self._take(json.loads(await socket.recv()))

    async def _events(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            last = f"Last-Event-ID: {self._position}\r\n" if self._position else ""
            writer.write(f"GET /frames/?group=drops HTTP/1.1\r\nHost: 127.0.0.1\r\n{last}\r\n".encode())
            while not self.is_done and (line := await reader.readline()):
                if line.startswith(b"data: "):
                    self._take(json.loads(line[6:]))
        finally:
            writer.close()


async def drop(server: Server) -> list[LightClient]:
    cut = asyncio.Event()
    clients = [LightClient(number, server.port, cut) for number in range(CLIENTS)]
    running_clients = [asyncio.create_task(client.run()) for client in clients]

    async def publish(numbers: range) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        texts = "".join(f"&text={number}" for number in numbers)
        head = "Host: 127.0.0.1\r\nConnection: close\r\n\r\n"
        writer.write(f"GET /publish/?group=drops{texts} HTTP/1.1\r\n{head}".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()

    async def all_are(condition: Callable[[LightClient], bool]) -> None:
        while not all(map(condition, clients)):
            await asyncio.sleep(0.01)

    async with asyncio.timeout(PATIENCE):
        for client in clients:
            await client.is_in.wait()
        part = MESSAGES // (2 * CUTS)
        for turn in range(CUTS):
            await publish(range(2 * turn * part, (2 * turn + 1) * part))  # while they read, and are cut off
            cut.set()
            await all_are(lambda client: client.cuts > turn)
            await publish(range((2 * turn + 1) * part, (2 * turn + 2) * part))  # while they are away
            cut.clear()
        await asyncio.gather(*running_clients)
    return clients


def test_links_that_are_cut_again_and_again(server: Server) -> None:
    with ThreadPoolExecutor() as pool:  # Playwright may have an event loop in this thread
        clients = pool.submit(lambda: asyncio.run(drop(server))).result()
    assert [client.missed for client in clients] == [0] * CLIENTS
    assert all(client.cuts == CUTS for client in clients)
    assert all(client.got == list(range(MESSAGES)) for client in clients)
