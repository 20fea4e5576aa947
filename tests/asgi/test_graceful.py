"""Servers that end gracefully: their WebSockets are closed little by little, browsers come back and miss nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from django_anyio_channels import AnyioChannelLayer
from django_anyio_channels.django.process.graceful import RESTART, SERVICE_RESTART
from tests.asgi.ends import ROOM
from tests.asgi.serving import environment, noise
from tests.support.brokers import redis
from tests.support.brokers.server import Server, accepts_connections, free_port, new_folder, running

ENDS = "tests.asgi.ends"
APPLICATION = f"{ENDS}.asgi:application"
COMMANDS = {
    "uvicorn": ["uvicorn", "--port", "{port}", APPLICATION],
    "uvicorn on uvloop": ["uvicorn", "--loop", "uvloop", "--ws", "wsproto", "--port", "{port}", APPLICATION],
    "hypercorn": ["hypercorn", "--workers", "0", "-b", "127.0.0.1:{port}", APPLICATION],
    "hypercorn on uvloop": ["hypercorn", "--workers", "0", "-k", "uvloop", "-b", "127.0.0.1:{port}", APPLICATION],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", APPLICATION],
    "daphne": ["daphne", "-p", "{port}", APPLICATION],
}
WINDOWS = 6
BROWSERS = 30
SECONDS = 60.0


def server_of(kind: str, layer: str, *, drain_seconds: int) -> Server:
    port = free_port()
    return Server(
        name=kind.replace(" ", "-"),
        port=port,
        command=[sys.executable, "-m", *(each.format(port=port) for each in COMMANDS[kind])],
        answers=accepts_connections(port),
        folder=new_folder(kind.replace(" ", "-")),
        environment={**environment(ENDS, layer), "DRAIN_SECONDS": str(drain_seconds)},
    )


def connecting(port: int) -> connect:
    return connect(f"ws://127.0.0.1:{port}/", open_timeout=SECONDS, proxy=None)


async def terminated(server: Server) -> int:
    """Send SIGTERM to a server, wait for its end, and return its exit code."""
    process = server.process
    assert process is not None
    process.terminate()
    return await anyio.to_thread.run_sync(process.wait, SECONDS)


# ---- every server ---------------------------------------------------------------------------------------------------


async def end_of(server: Server) -> tuple[int, set[int | None], int]:
    """End a server with some windows.

    Return how many of them were open when the first was closed, the codes of all, and the server's exit code.
    """
    windows = [await connecting(server.port) for _ in range(WINDOWS)]
    closing = [asyncio.create_task(window.wait_closed()) for window in windows]
    ending = asyncio.create_task(terminated(server))
    _, still_open = await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises((OSError, InvalidHandshake)):
        await connecting(server.port)
    await asyncio.wait(closing)
    return len(still_open), {window.close_code for window in windows}, await ending


def test_every_server_closes_its_websockets_one_after_the_other() -> None:
    servers = [server_of(kind, "memory://", drain_seconds=2) for kind in COMMANDS]

    async def main() -> None:
        async with asyncio.timeout(SECONDS):
            found = await asyncio.gather(*map(end_of, servers))
        for server, (still_open, codes, exit_code) in zip(servers, found, strict=True):
            expected = RESTART if server.name == "daphne" else SERVICE_RESTART
            assert still_open > 0, server.name
            assert (codes, exit_code) == ({expected}, 0), server.name
            assert not noise(server)

    with running(*servers):
        asyncio.run(main())


# ---- a rolling restart ----------------------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    one = redis.plain()
    with redis.running(one):
        yield one


@dataclass
class Browser:
    """A page that comes back, wherever a server takes connections, with the last position that it saw."""

    member: str
    ports: list[int]
    seen: list[int] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)
    incomplete: int = 0
    _position: str | None = None

    async def run(self) -> None:
        attempt = hash(self.member)
        while True:
            attempt += 1
            with suppress(OSError, InvalidHandshake):
                async with connecting(self.ports[attempt % len(self.ports)]) as window:
                    await self._talk(window)
            await asyncio.sleep(0.01)

    async def _talk(self, window: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            await window.send(json.dumps({"member": self.member, "since": self._position}))
            while True:
                message = json.loads(await window.recv())
                self._position = message["position"] or self._position
                if "n" in message:
                    self.seen.append(message["n"])
                else:
                    self.incomplete += not message["complete"]
        self.codes.append(window.close_code)


async def until(condition: Any) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


def test_a_rolling_restart_loses_nothing_and_nobody_is_seen_leaving(broker: redis.Redis) -> None:
    url = redis.with_streams(broker.url)
    servers = [server_of("uvicorn", url, drain_seconds=1) for _ in range(4)]

    async def main() -> None:
        layer = AnyioChannelLayer(url=url, presence_grace=2)
        watcher = await layer.new_channel()
        await layer.group_add(ROOM, watcher, member="watcher", watch=True)
        ports = [server.port for server in servers[:2]]
        browsers = [Browser(f"browser {number}", ports) for number in range(BROWSERS)]
        changes: list[Any] = []
        restarted = asyncio.Event()
        sent = 0

        async def watch() -> None:
            while True:
                message = await layer.receive(watcher)
                if message["type"] == "presence.changed":
                    changes.append(message)

        async def send() -> None:
            nonlocal sent
            while not restarted.is_set():
                await layer.group_send(ROOM, {"type": "room.number", "n": sent})
                sent += 1
                await asyncio.sleep(0.01)

        async def all_are_here() -> bool:
            return (await layer.group_count(ROOM)).members == BROWSERS + 1

        async def marker_has_left() -> bool:
            return any("marker" in change["left"] for change in changes)

        async def all_have_seen_all() -> bool:
            return all(len(browser.seen) >= sent for browser in browsers)

        tasks = [asyncio.create_task(each.run()) for each in browsers]
        await until(all_are_here)
        tasks.append(asyncio.create_task(watch()))
        sending = asyncio.create_task(send())
        for old, new in zip(servers[:2], servers[2:], strict=True):
            ports[ports.index(old.port)] = new.port
            assert await terminated(old) == 0
        # Whoever has left before the marker leaves is reported before it.
        marker = await layer.new_channel()
        await layer.group_add(ROOM, marker, member="marker")
        await layer.group_discard(ROOM, marker)
        await until(marker_has_left)
        restarted.set()
        await sending
        await until(all_have_seen_all)
        assert sent > 0
        assert all(browser.seen == list(range(sent)) for browser in browsers), "each once, and in order"
        assert not any(browser.incomplete for browser in browsers)
        assert {code for browser in browsers for code in browser.codes} == {SERVICE_RESTART}
        assert all(browser.codes for browser in browsers)
        assert (await layer.group_members(ROOM)).keys() == {"watcher", *(each.member for each in browsers)}
        assert [change["left"] for change in changes if change["left"]] == [["marker"]]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await layer.close()

    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await main()

    with running(*servers):
        asyncio.run(limited())
        assert "\n".join(map(noise, servers)).strip() == ""
