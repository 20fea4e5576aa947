"""Links that are cut again and again: 100 % delivered, none twice, in order, over WebSocket and server-sent events.

Pages of Chromium, and light clients, which speak the protocol without a browser, are behind one link to the server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, Page
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from django_anyio_channels import AnyioChannelLayer
from tests.asgi.serving import noise, serve
from tests.browser.link import Link, link_to
from tests.support.brokers import postgres
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, running, wait_until

SITE = "tests.browser.site"
LIGHT_CLIENTS, IN_A_PAGE = 100, 3
CUTS, PART = 3, 10
PATIENCE = 60
END = "end"

KINDS = {
    "websocket": "window.options = {}",
    "sse": "delete window.WebSocket; window.options = { events: '/frames/' }",
    "both": "window.options = { events: '/frames/' }",  # now one and now the other
}
"""What the page of each kind runs first."""

CONNECT = """([group, count]) => {
  Math.random = () => 0.01; // they come back soon
  window.clients = Array.from({ length: count }, () => {
    const link = connect("/ws/", options), client = { got: [], missed: 0, joined: 0, lost: 0, transports: [] };
    let isIn = false;
    link.addEventListener("message", ({ detail }) => client.got.push(detail.message));
    link.addEventListener("missed", () => client.missed++);
    link.addEventListener("joined", () => { client.joined++; isIn = true; });
    link.addEventListener("state", ({ detail: { state, transport } }) => {
      if (state === "open") client.transports.push(transport);
      if (state !== "lost" || !isIn) return;
      client.lost++;
      isIn = false;
    });
    link.join(group);
    return client;
  });
}"""


class LightClient:
    """A client that keeps its position and counts what it gets."""

    def __init__(self, number: int, port: int, group: str) -> None:
        self.number = number
        self.got: list[str] = []
        self.missed = self.joined = self.lost = 0
        self._port = port
        self._group = group
        self._position: str | None = None
        self.is_in = False
        """Whether it has joined, and its connection is open."""

    @property
    def _is_done(self) -> bool:
        return END in self.got[-1:]

    async def run(self) -> None:
        """Come back again and again, until the last message is here."""
        session = self._events if self.number % 2 else self._websocket
        while not self._is_done:
            try:
                await session()
            except (OSError, WebSocketException):
                await asyncio.sleep(0.5 * random.random())
            self.lost += self.is_in and not self._is_done
            self.is_in = False

    def _take(self, frame: Any) -> None:
        self._position = frame.get("position") or self._position
        if frame["type"] == "joined":
            self.missed += not frame["complete"]
            self.joined += 1
            self.is_in = True
        elif frame["type"] == "message":
            self.got.append(frame["message"])

    async def _websocket(self) -> None:
        address = f"ws://127.0.0.1:{self._port}/ws/"
        async with connect(address, proxy=None, ping_interval=None, close_timeout=0.1) as socket:
            await socket.send(json.dumps({"type": "hello", "version": 1}))
            await socket.send(json.dumps({"type": "join", "group": self._group, "since": self._position}))
            while not self._is_done:
                self._take(json.loads(await socket.recv()))

    async def _events(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            last = f"Last-Event-ID: {self._position}\r\n" if self._position else ""
            writer.write(f"GET /frames/?group={self._group} HTTP/1.1\r\nHost: 127.0.0.1\r\n{last}\r\n".encode())
            while not self._is_done and (line := await reader.readline()):
                if line.startswith(b"data: ") and line.endswith(b"\n"):
                    self._take(json.loads(line[6:]))
        finally:
            writer.close()


@dataclass
class Crowd:
    """Clients of one group behind one link."""

    light: list[LightClient]
    pages: list[Page]

    def wait(self, field: str, times: int) -> None:
        """Wait until each of them has done something so often."""
        wait_until(lambda: all(getattr(client, field) >= times for client in self.light), field, PATIENCE)
        for page in self.pages:
            page.wait_for_function(f"clients.every((client) => client.{field} >= {times})", timeout=PATIENCE * 1000)

    def wait_for_end(self) -> None:
        """Wait until each of them has the last message."""
        wait_until(lambda: all(END in client.got for client in self.light), "the last message", PATIENCE)
        for page in self.pages:
            page.wait_for_function(f"clients.every(({{ got }}) => got.includes('{END}'))", timeout=PATIENCE * 1000)

    def all(self, field: str) -> list[Any]:
        """Return what each of them has; those in pages are the last ones."""
        found = [getattr(client, field) for client in self.light]
        for page in self.pages:
            found += page.evaluate(f"clients.map((client) => client.{field})")
        return found


@dataclass
class Site:
    """The site on a broker with a history."""

    server: Server
    layer: str
    """The URL of the channel layer."""

    def publish(self, group: str, *texts: str) -> None:
        """Have the server publish."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        connection.request("GET", "/publish/?" + urlencode({"group": group, "text": texts}, doseq=True))
        assert connection.getresponse().status == 200
        connection.close()

    async def publish_without_server(self, group: str, *texts: str) -> None:
        layer = AnyioChannelLayer(url=self.layer, options={"history_length": 1000})
        for text in texts:
            await layer.group_send(group, {"type": "group.message", "message": text})
        await layer.close()


@pytest.fixture(scope="module", params=["memory", "streams", "postgresql"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with ExitStack() as stack:
        layer = "memory://"
        if request.param == "streams":
            redis = brokers.plain("redis")
            stack.enter_context(brokers.running(redis))
            layer = brokers.with_streams(redis.url)
        elif request.param == "postgresql":
            database = postgres.plain()
            stack.enter_context(running(database.server))
            layer = database.url
        server = serve("uvicorn", SITE, layer)
        stack.enter_context(running(server))
        yield Site(server, layer)
        assert noise(server) == ""


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    """An event loop in another thread; Playwright may have one in this thread."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def link(portal: BlockingPortal, site: Site) -> Iterator[Link]:
    with link_to(portal, site.server.port) as link:
        yield link


@pytest.fixture
def pages(browser: Browser, link: Link) -> Iterator[list[Page]]:
    """A page of each kind, each in a browser of its own, whose connections don't wait for those of the others."""
    errors: list[str] = []
    with ExitStack() as stack:
        found = []
        for script in KINDS.values():
            context = browser.new_context()
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.add_init_script(script)
            page.goto(f"http://127.0.0.1:{link.port}/")
            found.append(page)
        yield found
    assert errors == []


@contextmanager
def crowd(portal: BlockingPortal, link: Link, group: str, *, light: int, pages: list[Page]) -> Iterator[Crowd]:
    """Light clients and the connections of pages, all in a group."""
    found = Crowd([LightClient(number, link.port, group) for number in range(light)], pages)
    tasks = [portal.start_task_soon(client.run) for client in found.light]
    try:
        for page in pages:
            page.wait_for_function("window.connect !== undefined")
            page.evaluate(CONNECT, [group, IN_A_PAGE])
        found.wait("joined", 1)
        yield found
    finally:
        for task in tasks:
            task.cancel()


def test_links_that_are_cut_again_and_again(site: Site, portal: BlockingPortal, link: Link, pages: list[Page]) -> None:
    sent = [str(number) for number in range(2 * CUTS * PART)]
    numbers = iter(sent)
    with crowd(portal, link, "drops", light=LIGHT_CLIENTS, pages=pages) as clients:
        for turn in range(1, CUTS + 1):
            site.publish("drops", *islice(numbers, PART))
            link.cut()  # while they read
            clients.wait("lost", turn)
            site.publish("drops", *islice(numbers, PART))
            link.restore()
            clients.wait("joined", turn + 1)
        site.publish("drops", END)
        clients.wait_for_end()
        count = LIGHT_CLIENTS + IN_A_PAGE * len(pages)
        assert clients.all("lost") == [CUTS] * count
        assert clients.all("missed") == [0] * count
        assert clients.all("got") == [[*sent, END]] * count
        for page, transport in zip(pages, ("websocket", "sse"), strict=False):
            assert set(page.evaluate("clients.flatMap(({ transports }) => transports)")) == {transport}


def _are_lost(page: Page, times: int) -> bool:
    """Let 35 seconds pass for a page: its clients ask after 25 without a message, and wait 10 for an answer."""
    page.clock.fast_forward(35_000)
    return bool(page.evaluate(f"clients.every(({{ lost }}) => lost === {times})"))


@pytest.mark.parametrize("site", ["memory"], indirect=True)
def test_links_that_go_silent(site: Site, portal: BlockingPortal, link: Link, pages: list[Page]) -> None:
    """Nothing tells a browser that its link is dead, except that nothing comes any more."""
    turns = 2
    sent = [str(number) for number in range(2 * turns * PART)]
    numbers = iter(sent)
    for page in pages:
        page.clock.install()
        page.reload()
    with crowd(portal, link, "silence", light=0, pages=pages) as clients:
        for turn in range(1, turns + 1):
            site.publish("silence", *islice(numbers, PART))
            link.silence()
            site.publish("silence", *islice(numbers, PART))
            for page in pages:
                wait_until(partial(_are_lost, page, turn), "the clients know that they are offline", PATIENCE)
            link.restore()
            clients.wait("joined", turn + 1)
        site.publish("silence", END)
        clients.wait_for_end()
        count = IN_A_PAGE * len(pages)
        assert clients.all("lost") == [turns] * count
        assert clients.all("missed") == [0] * count
        assert clients.all("got") == [[*sent, END]] * count


def test_all_come_back_at_once_after_the_server_was_killed(site: Site, portal: BlockingPortal, link: Link) -> None:
    before, meanwhile = ["0", "1"], ["2", "3", "4"]
    with crowd(portal, link, "herd", light=200, pages=[]) as clients:
        site.publish("herd", *before)
        wait_until(lambda: all(client.got == before for client in clients.light), "all read", PATIENCE)
        link.cut()
        site.server.kill()
        wait_until(lambda: not any(client.is_in for client in clients.light), "all are offline", PATIENCE)
        has_history = site.layer != "memory://"  # of a process that has been killed
        if has_history:
            portal.call(site.publish_without_server, "herd", *meanwhile)
        site.server.start()
        link.restore()
        wait_until(lambda: all(client.is_in for client in clients.light), "all are back", PATIENCE)
        site.publish("herd", END)
        clients.wait_for_end()
        for client in clients.light:
            assert client.got == [*before, *(meanwhile if has_history else []), END]
            assert bool(client.missed) == (not has_history)
