"""``client.js`` in Chromium, whole: against a scripted server on a clock of the test's own.

`test_client_real` has real servers.
"""

from __future__ import annotations

import gzip
import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession, Page, Route, WebSocketRoute

from tests.browser.coverage import Coverage
from tests.support.paths import ROOT

FILE = ROOT / "django_anyio_channels/static/anyio_channels/client.js"
HERE = "http://app.test"
PAGE = "<!doctype html>"
LOAD = """async () => {
Object.assign(window, await import("/client.js"));
window.events = [];
window.open_ = (options) => {
  window.link = connect("/ws/", options);
  for (const type of ["hello", "joined", "message", "presence", "missed", "left", "error", "state"])
    link.addEventListener(type, ({ detail }) => events.push({ type, ...detail }));
};
}"""

PATIENCE = 20
SERVED = "server"


class Scripted:
    """A server that does what the test says."""

    def __init__(self, page: Page, coverage: Coverage) -> None:
        self.page = page
        self._coverage = coverage
        self._session: CDPSession | None = None
        self.sockets: list[WebSocketRoute] = []
        self.frames: list[dict[str, Any]] = []
        self.requests: list[Route] = []
        self.greets = True
        page.route_web_socket("**/ws/", self._connect)
        page.route(f"{HERE}/**", self._serve)
        self.load()
        page.clock.pause_at(3600)  # from now on only the test moves it

    def load(self) -> None:
        """Open a new page with the client."""
        self.unload()
        self.page.goto(HERE)
        # Not before: a page of another site may get another process.
        self._session = self._coverage.start(self.page)
        self.page.evaluate(LOAD)

    def unload(self) -> None:
        if self._session is not None:
            self._coverage.take(self._session)
            self._session = None

    def _connect(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(lambda text: self._receive(json.loads(text)))

    def _receive(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        if frame["type"] == "hello" and self.greets:
            self.send(type="hello", version=1)

    def _serve(self, route: Route) -> None:
        path = route.request.url.removeprefix(HERE).partition("?")[0]
        if path == "/events/":
            self.requests.append(route)
        elif path == "/client.js":
            route.fulfill(body=FILE.read_text(), content_type="text/javascript")
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    def send(self, **frame: Any) -> None:
        self.sockets[-1].send(json.dumps(frame))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait, while Chromium goes on."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.frames, self.events())
            self.page.evaluate("0")  # the handlers above run while Playwright waits

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate("events")
        return found

    def states(self) -> list[str]:
        return [each["state"] for each in self.events() if each["type"] == "state"]

    def is_open(self) -> bool:
        return bool(self.page.evaluate("link.state") == "open")

    def connect(self, options: str = "{}") -> None:
        self.page.evaluate(f"open_({options})")
        self.until(self.is_open)


@contextmanager
def scripted(browser: Browser, coverage: Coverage) -> Iterator[Scripted]:
    context = browser.new_context()
    page = context.new_page()
    page.clock.install(time=0)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    server = Scripted(page, coverage)
    yield server
    server.unload()
    context.close()
    assert errors == []


@pytest.fixture
def server(browser: Browser) -> Iterator[Scripted]:
    with scripted(browser, Coverage(FILE)) as server:
        yield server


def signature_of(test: Any) -> list[str]:
    return list(inspect.signature(test).parameters)


def test_it_is_small_and_its_types_name_what_it_exports() -> None:
    assert len(gzip.compress(FILE.read_bytes(), 9)) <= 4096
    types = FILE.with_suffix(".d.ts").read_text()
    assert "import" not in FILE.read_text()
    for name in ("backoff", "isFinal", "connect", "Connection"):
        assert f"export declare function {name}" in types or f"export declare class {name}" in types


def test_a_herd_spreads_over_the_window(server: Scripted) -> None:
    for failures, window in ((0, 2_000), (2, 8_000), (9, 30_000)):
        delays = server.page.evaluate(f"Array.from({{length: 1000}}, () => backoff({failures}))")
        tenths = [sum(tenth <= 10 * delay / window < tenth + 1 for delay in delays) for tenth in range(10)]
        assert sum(tenths) == 1000
        assert min(tenths) > 50
        assert max(tenths) < 160


def test_groups_are_joined_again_where_they_were(server: Scripted) -> None:
    server.connect("{token: 'secret'}")
    assert server.frames == [{"type": "hello", "version": 1, "token": "secret"}]
    page = server.page
    page.evaluate("link.join('room', {last: 5}); link.join('hall', {since: '7'}); link.join('room')")
    server.until(lambda: len(server.frames) == 3)
    assert server.frames[1:] == [
        {"type": "join", "group": "room", "last": 5, "since": None},
        {"type": "join", "group": "hall", "last": 0, "since": "7"},
    ]
    server.send(type="joined", group="room", position="1", complete=True, history=True)
    server.send(type="message", group="room", position="2", message={"text": "one"})
    server.send(type="message", group=None, position=None, message="no history")
    server.send(type="presence", group="room", event="joined", member="ana", metas=[{}])
    server.send(type="missed", group=None)
    assert page.evaluate("link.send({text: 'hi'}, 'room') && link.send(1)")
    server.until(lambda: len(server.frames) == 5)
    assert server.frames[3:] == [
        {"type": "message", "message": {"text": "hi"}, "group": "room"},
        {"type": "message", "message": 1, "group": None},
    ]
    server.sockets[-1].close(code=4013)
    server.until(lambda: server.states()[-1] == "lost")
    assert not page.evaluate("link.send(2)")
    page.clock.fast_forward(2_000)
    server.until(lambda: len(server.frames) == 8)
    assert server.frames[6:] == [
        {"type": "join", "group": "room", "last": 5, "since": "2"},
        {"type": "join", "group": "hall", "last": 0, "since": "7"},
    ]
    server.send(type="joined", group="room", position=None, complete=False, history=True)
    server.until(lambda: server.events()[-1]["type"] == "missed")
    assert server.events()[-1] == {"type": "missed", "group": "room"}
    assert [each["type"] for each in server.events()] == [
        *("state", "hello", "joined", "message", "message", "presence", "missed"),
        *("state", "state", "state", "hello", "joined", "missed"),
    ]


def test_a_group_is_left_or_lost(server: Scripted) -> None:
    server.connect()
    page = server.page
    page.evaluate("['a', 'b', 'c', 'd'].forEach((group) => link.join(group)); link.leave('a'); link.leave('x')")
    server.until(lambda: len(server.frames) == 6)
    assert server.frames[-1] == {"type": "leave", "group": "a"}
    server.send(type="left", group="a")
    server.send(type="left", group="b", code="forbidden")
    server.send(type="error", frame="join", code="forbidden", reason="no", group="c")
    server.send(type="error", frame="message", code="not_joined", reason="no", group="d")
    server.until(lambda: len([each for each in server.events() if each["type"] in ("left", "error")]) == 4)
    assert page.evaluate("link.groups") == ["d"]


def test_some_codes_are_final(server: Scripted) -> None:
    codes = [1000, 1001, 1006, 1008, 1012, 4000, 4013, 4400, 4401, 4403, 4408, 4429, 4499, 4500]
    final = server.page.evaluate(f"{codes}.filter(isFinal)")
    assert final == [1000, 1008, 4400, 4401, 4403, 4499]
    server.connect()
    server.sockets[-1].close(code=4401, reason="logged out")
    server.until(lambda: server.states()[-1] == "closed")
    closed = server.events()[-1]
    assert (closed["code"], closed["reason"]) == (4401, "logged out")
    server.page.clock.fast_forward(600_000)
    server.page.evaluate("link.join('a'); dispatchEvent(new Event('online'))")
    assert len(server.sockets) == 1


def test_who_asks_too_much_waits_longer(server: Scripted) -> None:
    server.page.evaluate("Math.random = () => 0.5")
    server.connect()
    server.sockets[-1].close(code=4429)
    server.until(lambda: server.states()[-1] == "lost")
    assert server.events()[-1]["delay"] == 15_000
    server.page.evaluate("link.close()")
    assert server.states()[-1] == "closed"


def test_it_connects_at_once_if_it_is_told_to(server: Scripted) -> None:
    page = server.page
    page.evaluate("window.count = 0")
    server.connect("{token: () => `token ${++count}`}")
    page.evaluate("link.join('room')")
    server.send(type="message", group="room", position="7", message=1)
    server.until(lambda: server.events()[-1]["type"] == "message")
    for end in ("0", "link.close()", "0"):
        page.evaluate(end)
        page.evaluate("link.reconnect()")
        server.until(lambda: len(server.frames) == 2 * len(server.sockets))
    assert [frame["token"] for frame in server.frames[::2]] == [f"token {number}" for number in range(1, 5)]
    assert [frame["since"] for frame in server.frames[1::2]] == [None, "7", "7", "7"]
    # Each listens to the browser once.
    page.evaluate("dispatchEvent(new Event('online'))")
    server.until(lambda: server.frames[-1] == {"type": "ping"})
    assert len(server.frames) == 2 * 4 + 1


def test_it_wakes_when_the_browser_is_back(server: Scripted) -> None:
    page = server.page
    page.evaluate("Math.random = () => 1")
    server.connect()
    for event in ("dispatchEvent(new Event('online'))", "document.dispatchEvent(new Event('visibilitychange'))"):
        before = len(server.sockets)
        server.sockets[-1].close(code=1001)
        server.until(lambda: server.states()[-1] == "lost")
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        page.evaluate(event)
        assert server.states()[-1] == "lost"
        page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
        page.evaluate(event)
        server.until(server.is_open)
        assert len(server.sockets) == before + 1
    page.evaluate("dispatchEvent(new Event('online'))")
    server.until(lambda: server.frames[-1] == {"type": "ping"})


def test_a_silent_link_is_probed_and_given_up(server: Scripted) -> None:
    page = server.page
    server.connect()
    page.clock.fast_forward(25_000)
    server.until(lambda: server.frames[-1] == {"type": "ping"})
    server.send(type="ping")
    page.evaluate("link.join('a')")
    page.clock.fast_forward(24_000)
    assert server.is_open()
    page.clock.fast_forward(1_000)
    server.until(lambda: server.frames[-1] == {"type": "ping"})
    server.greets = False
    page.clock.fast_forward(10_000)
    server.until(lambda: server.states()[-1] == "lost")
    # Nor does it wait for ever for an answer to its hello.
    page.clock.fast_forward(2_000)
    server.until(lambda: server.states()[-1] == "connecting")
    server.until(lambda: server.frames[-1]["type"] == "hello")
    page.clock.fast_forward(19_000)
    assert server.states()[-1] == "connecting", "it has failed before, and has more patience"
    page.clock.fast_forward(1_000)
    server.until(lambda: server.states()[-1] == "lost")


def test_tokens_are_fetched_for_each_attempt(server: Scripted) -> None:
    page = server.page
    page.evaluate("window.count = 0")
    server.connect("{token: async () => { if (++count === 2) throw Error('no token'); return `token ${count}`; }}")
    server.sockets[-1].close(code=1001)
    for state in ("lost", "lost", "open"):
        server.until(lambda: page.evaluate("link.state") == state)
        page.clock.fast_forward(30_000)
        if state == "lost":
            server.until(lambda: page.evaluate("link.state") != "connecting")
    hellos = [frame["token"] for frame in server.frames if frame["type"] == "hello"]
    assert hellos[0] == "token 1"
    assert "token 3" in hellos
    # One that comes too late is for a link that is no more.
    page.evaluate("open_({token: () => new Promise((resolve) => (window.late = resolve))})")
    page.evaluate("link.close(); late('late')")
    assert "late" not in [frame.get("token") for frame in server.frames]


def test_positions_outlast_the_page(server: Scripted) -> None:
    server.connect("{storage: sessionStorage}")
    server.page.evaluate("link.join('room')")
    server.send(type="message", group="room", position="7", message=1)
    server.until(lambda: server.events()[-1]["type"] == "message")
    server.load()
    server.connect("{storage: sessionStorage}")
    server.page.evaluate("link.join('room', {last: 3})")
    server.until(lambda: server.frames[-1] == {"type": "join", "group": "room", "last": 3, "since": "7"})


HELLO = 'retry: 1\n\ndata: {"type":"hello","version":1}\n\n'


def stream(*frames: dict[str, Any]) -> str:
    return HELLO + "".join(f"id: 1\ndata: {json.dumps(frame)}\n\n" for frame in frames) + ":\n\n"


def test_server_sent_events_are_the_way_where_no_websocket_gets_through(server: Scripted) -> None:
    page = server.page
    server.greets = False
    page.evaluate("open_({events: '/events/', token: 'secret'}); link.join('room', {last: 2}); link.join('hall')")
    for _ in range(2):
        server.until(lambda: page.evaluate("link.state") == "connecting")
        server.sockets[-1].close(code=1001)
        server.until(lambda: page.evaluate("link.state") == "lost")
        page.clock.fast_forward(8_000)
        server.until(lambda: page.evaluate("link.state") != "lost")
    server.until(lambda: len(server.requests) == 1)
    request = server.requests[0].request
    assert request.url == f"{HERE}/events/?group=room&last=2&group=hall"
    assert request.headers["authorization"] == "Bearer secret"
    joined = {"type": "joined", "group": "room", "position": "5", "complete": True, "history": True}
    message = {"type": "message", "group": "room", "position": "6", "message": "over HTTP"}
    server.requests[0].fulfill(body=stream(joined, message), content_type="text/event-stream")
    server.until(lambda: page.evaluate("link.state") == "lost")
    assert "over HTTP" in [each.get("message") for each in server.events()]
    assert not page.evaluate("link.send(1)")
    page.evaluate("link.leave('hall'); link.join('attic')")
    server.until(lambda: len(server.requests) >= 2)
    request = server.requests[-1].request
    assert request.url == f"{HERE}/events/?group=room&group=attic"
    assert request.headers["last-event-id"] == "room=6"
    page.evaluate("link.leave('attic')")
    server.until(lambda: server.requests[-1].request.url.endswith("?group=room"))
    assert server.requests[-1].request.headers["last-event-id"] == "6"
    page.evaluate("link.leave('room')")
    assert page.evaluate("link.state") == "connecting"


@pytest.mark.parametrize(("status", "code"), [(403, 4403), (204, 1000)])
def test_a_stream_that_is_refused_is_not_asked_for_again(server: Scripted, status: int, code: int) -> None:
    page = server.page
    page.evaluate("WebSocket = undefined; open_({events: '/events/'})")
    assert page.evaluate("link.state") == "connecting"
    assert server.requests == []
    page.evaluate("link.join('room')")
    server.until(lambda: len(server.requests) == 1)
    server.requests[0].fulfill(status=503)
    server.until(lambda: page.evaluate("link.state") == "lost")
    page.clock.fast_forward(2_000)
    server.until(lambda: len(server.requests) == 2)
    server.requests[1].abort()
    server.until(lambda: page.evaluate("link.state") == "lost")
    page.clock.fast_forward(4_000)
    server.until(lambda: len(server.requests) == 3)
    server.requests[2].fulfill(status=status)
    server.until(lambda: page.evaluate("link.state") == "closed")
    closed = server.events()[-1]
    assert (closed["code"], closed["transport"]) == (code, "sse")
    page.evaluate("link.join('hall'); link.leave('room')")


def test_a_silent_stream_is_given_up(server: Scripted) -> None:
    page = server.page
    page.evaluate("""WebSocket = undefined;
        window.fetch = async () => new Response(new ReadableStream({ start: (feed) => (window.feed = feed) }));
        window.say = (text) => feed.enqueue(new TextEncoder().encode(text));
        open_({events: '/events/'}); link.join('room')""")
    server.until(lambda: page.evaluate("window.feed !== undefined"))
    page.evaluate(f"say({json.dumps(HELLO[:40])}); say({json.dumps(HELLO[40:])})")
    server.until(server.is_open)
    page.clock.fast_forward(34_000)
    page.evaluate("dispatchEvent(new Event('online'))")
    assert server.is_open()
    page.clock.fast_forward(1_000)
    server.until(lambda: page.evaluate("link.state") == "lost")


def test_client_is_covered_whole(browser: Browser) -> None:
    """By the tests above, which may have run in several processes."""
    coverage = Coverage(FILE)
    for test in [each for name, each in globals().items() if name.startswith("test_") and SERVED in signature_of(each)]:
        variants: list[dict[str, int]] = (
            [{}] if len(signature_of(test)) == 1 else [{"status": 403, "code": 4403}, {"status": 204, "code": 1000}]
        )
        for arguments in variants:
            with scripted(browser, coverage) as server:
                test(server, **arguments)
    assert coverage.missing() == []
