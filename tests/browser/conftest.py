"""The demo chat behind `manage.py runserver`, and windows of one browser that look at it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.asgi.serving import serve
from tests.browser.chromium import find_chromium
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, ServerMissing, running

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Open = Callable[..., Page]

_ROOMS = itertools.count(1)

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def broker() -> Iterator[brokers.Redis]:
    """A server without a log: what it knows ends with it."""
    made = brokers.plain("redis")
    with brokers.running(made):
        yield made


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One headless Chromium with a fresh profile."""
    try:
        chromium = find_chromium()
    except ServerMissing as missing:
        raise pytest.fail.Exception(str(missing), pytrace=False) from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.program, args=FLAGS, env={**os.environ, **chromium.environment}
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The demo chat; tests may kill it and start it again."""
    server = serve("runserver", "config", os.environ.get("CHANNEL_LAYER_URL", "memory://"))
    with running(server):
        yield server


@pytest.fixture
def open_window(browser: Browser, server: Server) -> Iterator[Open]:
    """Opens a window, of a browser of its own, in a room of this test; with a name it also comes in.

    Any other arguments are Playwright's for a context. The test fails if a page's script does.
    """
    if not server.running:
        server.start()
    errors: list[str] = []
    contexts = []

    # A room keeps its last messages.
    own_room = f"room-{next(_ROOMS)}"

    def open_window(name: str = "", room: str = own_room, **options: Any) -> Page:
        context = browser.new_context(base_url=f"http://127.0.0.1:{server.port}", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"/room/{room}/")
        if name:
            page.get_by_label("Your name").fill(name)
            page.keyboard.press("Enter")
            expect(page.locator("#connection")).to_have_text("Connected")
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert errors == []
