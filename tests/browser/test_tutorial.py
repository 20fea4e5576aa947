"""The tutorial, step by step as its text says, in a real browser: the page is the only source of the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.docs.reader import Reader, sections
from tests.support.brokers import redis as brokers


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, broker: brokers.Redis) -> Iterator[Reader]:
    made = Reader(tmp_path_factory.mktemp("tutorial"), broker)
    yield made
    made.stop()


@contextmanager
def windows(browser: Browser, reader: Reader, count: int = 2) -> Iterator[list[Page]]:
    """Windows of browsers of their own that look at the chat; its script must not fail."""
    errors: list[str] = []
    contexts: list[BrowserContext] = [browser.new_context() for _ in range(count)]
    pages = [context.new_page() for context in contexts]
    for window in pages:
        window.on("pageerror", lambda error: errors.append(str(error)))
        with window.expect_websocket() as connection:
            window.goto(f"http://127.0.0.1:{reader.port}/")
        assert not connection.value.is_closed()
    yield pages
    for context in contexts:
        context.close()
    assert errors == []


def say(window: Page, text: str) -> None:
    window.locator("#text").fill(text)
    window.keyboard.press("Enter")


def messages(window: Page) -> Locator:
    return window.locator("#messages li")


def everyone_sees(pages: Sequence[Page], said: Sequence[str]) -> None:
    for window in pages:
        expect(messages(window)).to_have_text(list(said))


def connected(pages: Sequence[Page]) -> None:
    for window in pages:
        expect(window.locator("#state")).to_have_text("Connected")


def test_every_step(browser: Browser, reader: Reader) -> None:
    reader.follow("Create the project")
    reader.follow("Write a consumer")
    reader.follow("Write a page")
    [server] = reader.follow("Start it")
    server.start()
    with windows(browser, reader) as (ana, bob):
        say(ana, "Hello")
        everyone_sees((ana, bob), ["Hello"])
        say(bob, "Hello yourself")
        everyone_sees((ana, bob), ["Hello", "Hello yourself"])
    server.stop()

    reader.follow("Use Redis with history")
    [server] = reader.follow("Resume")  # its last command has said something meanwhile
    server.start()
    with windows(browser, reader) as pages:
        connected(pages)
        everyone_sees(pages, ["The server is down."])
        said = ["The server is down.", "one", "two"]
        say(pages[0], "one")
        everyone_sees(pages, said[:2])
        say(pages[1], "two")
        everyone_sees(pages, said)
        server.shutdown()
        for window in pages:
            expect(window.locator("#state")).to_have_text("Reconnecting")
        for text in ("three", "four"):
            reader.call("python3", "manage.py", "say", text)
        server.start()
        connected(pages)
        said += ["three", "four"]
        everyone_sees(pages, said)
        say(pages[0], "five")
        said.append("five")
        everyone_sees(pages, said)
    server.stop()

    reader.follow("Test it")
    [server] = reader.follow("Run four processes")
    server.start()
    with windows(browser, reader, 6) as pages:
        connected(pages)
        for window in pages:
            say(window, f"from {pages.index(window)}")
            said.append(f"from {pages.index(window)}")
            everyone_sees(pages, said)
    assert reader.done == sections()
