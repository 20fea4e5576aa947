"""``client.js`` in Chromium with real servers and brokers, and htmx without any script of ours."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from django_anyio_channels import AnyioChannelLayer
from tests.asgi.serving import noise, serve
from tests.browser.npm import folder_of
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, ServerMissing, running

SITE = "tests.browser.site"
QUICK = "Math.random = () => 0.01"

NO_WEBSOCKET = """window.WebSocket = class {
  constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
  close() {}
}"""

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    """The site in memory."""
    server = serve("uvicorn", SITE, "memory://")
    with running(server):
        yield server
        assert noise(server) == ""


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a page of a server, whose scripts must not fail."""
    errors: list[str] = []
    contexts = []

    def open_page(server: Server, path: str = "/", before: Callable[[Page], object] = lambda page: None) -> Page:
        context = browser.new_context()
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        before(page)
        page.goto(f"http://127.0.0.1:{server.port}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def get(server: Server, path: str, **query: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", f"{path}?{urlencode(query, doseq=True)}")
    assert connection.getresponse().status == 200
    connection.close()


def watch(page: Page, url: str, options: str = "{}") -> None:
    page.wait_for_function("window.connect !== undefined")
    page.evaluate(f"{QUICK}; watch(connect('{url}', {options}))")


def until(page: Page, condition: str) -> None:
    page.wait_for_function(condition, timeout=20_000)


def got(page: Page, group: str) -> Any:
    """The messages of a group, when ``count`` have come."""
    found = f"events.filter((each) => each.type === 'message' && each.group === '{group}').map((each) => each.message)"
    return page.evaluate(found)


@pytest.mark.parametrize("path", ["/ws/", "/sync/"])
def test_nothing_is_missed_while_the_link_is_cut(site: Server, open_page: Open, path: str) -> None:
    page, groups = open_page(site), [f"{path[1:3]}.{number}" for number in range(2)]
    watch(page, path, "{token: 'ana'}")
    page.evaluate(f"{groups}.forEach((group) => link.join(group)); link.join('vault')")
    until(page, "events.filter((each) => each.type === 'joined').length === 2")
    until(page, "events.some((each) => each.type === 'error' && each.code === 'forbidden')")
    texts: list[str] = []
    for turn in range(4):
        for _ in range(2):
            texts.append(str(len(texts)))
            for group in groups:
                get(site, "/publish/", group=group, text=texts[-1])
        if turn < 3:
            until(page, "link.state === 'open'")
            page.evaluate("link.send('drop')")
    until(page, f"events.filter((each) => each.type === 'message').length >= {2 * len(texts)} && link.state === 'open'")
    assert page.evaluate(f"link.send('last', '{groups[0]}')")
    until(page, f"events.filter((each) => each.type === 'message').length >= {2 * len(texts) + 1}")
    assert got(page, groups[0]) == [*texts, "last"]
    assert got(page, groups[1]) == texts
    assert page.evaluate("events.filter((each) => each.type === 'missed')") == []
    assert page.evaluate("link.groups") == groups
    if path == "/ws/":
        members = page.evaluate("events.find((each) => each.type === 'joined').members")
        assert members == {"ana": [{}]}


def test_a_token_that_is_refused_ends_it(site: Server, open_page: Open) -> None:
    page = open_page(site)
    watch(page, "/ws/", "{token: 'stolen'}")
    until(page, "link.state === 'closed'")
    assert page.evaluate("events.at(-1).code") == 4401
    assert page.evaluate("events.find((each) => each.type === 'error').code") == "unauthorized"


def test_where_no_websocket_gets_through_events_do(site: Server, open_page: Open) -> None:
    page = open_page(site, before=lambda page: page.add_init_script(NO_WEBSOCKET))
    get(site, "/publish/", group="sse", text=["0", "1"])
    watch(page, "/ws/", "{events: '/frames/'}")
    page.evaluate("link.join('sse', {last: 1})")
    until(page, "events.some((each) => each.type === 'message')")
    page.evaluate("link.join('other')")
    until(page, "events.some((each) => each.type === 'joined' && each.group === 'other')")
    get(site, "/publish/", group="sse", text=["2"])
    get(site, "/publish/", group="other", text=["3"])
    until(page, "events.filter((each) => each.type === 'message').length >= 3")
    assert (got(page, "sse"), got(page, "other")) == (["1", "2"], ["3"])
    assert page.evaluate("events.findLast((each) => each.type === 'state').transport") == "sse"
    page.evaluate("link.close()")


def test_the_server_and_the_broker_restart(open_page: Open) -> None:
    broker = brokers.plain("redis")
    with brokers.running(broker):
        url = brokers.with_streams(broker.url)
        server = serve("uvicorn", SITE, url)

        async def publish_all(texts: tuple[str, ...]) -> None:
            layer = AnyioChannelLayer(url=url)
            for text in texts:
                await layer.group_send("room", {"type": "group.message", "message": text})
            await layer.close()

        def publish(*texts: str) -> None:
            with ThreadPoolExecutor() as pool:  # Playwright has an event loop in this thread
                pool.submit(asyncio.run, publish_all(texts)).result()

        with running(server):
            page = open_page(server)
            watch(page, "/ws/")
            page.evaluate("link.join('room')")
            until(page, "events.some((each) => each.type === 'joined')")
            publish("one")
            until(page, "events.some((each) => each.type === 'message')")
            server.kill()
            until(page, "link.state !== 'open'")
            publish("two", "three")
            server.start()
            until(page, "events.filter((each) => each.type === 'message').length >= 3")
            assert got(page, "room") == ["one", "two", "three"]
            assert page.evaluate("events.filter((each) => each.type === 'missed')") == []
            # Without a log the broker forgets everything, and the page learns of it.
            broker.server.kill()
            broker.server.start()
            until(page, "events.some((each) => each.type === 'missed' && each.group === 'room')")
            publish("four")
            until(page, "events.some((each) => each.message === 'four')")
            server.shutdown()


def test_an_event_source_needs_no_script_of_ours(site: Server, open_page: Open) -> None:
    page = open_page(site)
    page.evaluate("""window.texts = [];
        window.source = new EventSource('/stream/?group=source');
        source.onmessage = ({ data }) => texts.push(JSON.parse(data).message);
        0""")
    until(page, "source.readyState === EventSource.OPEN")
    get(site, "/publish/", group="source", text=["0", "1"])
    until(page, "texts.length === 2")
    page.evaluate("source.close()")
    assert page.evaluate("texts") == ["0", "1"]


def test_htmx(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        folders = {folder_of(name) for name in ("htmx.org", "htmx-ext-sse", "htmx-ext-ws")}
    except ServerMissing as missing:
        pytest.skip(f"htmx is nowhere to be had: {missing}")
    monkeypatch.setenv("NPM_FOLDER", ":".join(str(folder.parent) for folder in folders))
    server = serve("daphne", SITE, "memory://")
    with running(server):
        page = open_page(server, "/htmx/")
        get(server, "/publish/", group="chat", text=["<b>", "two"])
        expect(page.locator("#sse li")).to_have_text(['"<b>"', '"two"'])
        for _ in range(200):  # until its WebSocket is open
            get(server, "/fragment/", text="3 : 1")
            if page.locator("#score").inner_text() == "3 : 1":
                break
            page.wait_for_timeout(50)
        expect(page.locator("#score")).to_have_text("3 : 1")


def test_states_are_json(site: Server, open_page: Open) -> None:
    page = open_page(site)
    watch(page, "/ws/")
    until(page, "link.state === 'open'")
    assert json.loads(page.evaluate("JSON.stringify(events.at(-1))")) == {
        "type": "state",
        "state": "open",
        "transport": "websocket",
    }
