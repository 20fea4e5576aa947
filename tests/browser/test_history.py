"""The demo chat on a broker that keeps a history: windows that were away, windows that come late."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.asgi.serving import noise, serve
from tests.browser.conftest import Open
from tests.browser.test_chat import messages, people, say
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, running


@pytest.fixture(scope="module")
def server(broker: brokers.Redis) -> Iterator[Server]:
    """The demo chat, whose messages are kept by the broker."""
    server = serve("runserver", "config", brokers.with_streams(broker.url))
    server.environment = {**server.environment, "SERVER_NAME": "server 2"}
    with running(server):
        yield server


class Cable:
    """What a window is connected through; it can be cut and mended."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._ends: list[WebSocketRoute] = []
        self.swallows: list[str] = []
        """From which ends messages of the application are lost: ``server``, ``page``."""
        self._lost: list[dict[str, Any]] = []
        page.route_web_socket("**/ws/", self._connect)

    def _connect(self, page: WebSocketRoute) -> None:
        server = page.connect_to_server()
        page.on_message(lambda frame: self._pass_on("page", frame, server))
        server.on_message(lambda frame: self._pass_on("server", frame, page))
        self._ends = [server, page]

    def _pass_on(self, begin: str, frame: str | bytes, end: WebSocketRoute) -> None:
        if begin in self.swallows and json.loads(frame)["type"] == "message":
            self._lost.append(json.loads(frame)["message"])
        else:
            end.send(frame)

    def lost(self, kind: str) -> dict[str, Any]:
        """Return the message of this type that was lost, when it has come here."""
        deadline = time.monotonic() + 20
        while True:
            for message in self._lost:
                if message["type"] == kind:
                    return message
            assert time.monotonic() < deadline, self._lost
            self._page.evaluate("0")  # the handlers above run while Playwright waits

    def send_to_page(self, **frame: Any) -> None:
        self._ends[1].send(json.dumps(frame))

    def cut(self) -> None:
        # Only new connections mind that the browser is offline.
        self._page.context.set_offline(True)
        for end in self._ends:
            end.close()
        expect(self._page.locator("#connection")).to_have_text("Connection lost")

    def mend(self) -> None:
        self._page.context.set_offline(False)
        expect(self._page.locator("#connection")).to_have_text("Connected")


def enter(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("Connected")


def test_what_was_said_while_a_window_was_away_is_there_when_it_is_back(open_window: Open, server: Server) -> None:
    ana, bob = open_window("Ana"), open_window()
    cable = Cable(bob)
    enter(bob, "Bob")
    expect(people(ana)).to_have_text(["Ana", "Bob"])
    said = ["one", "two"]
    say(ana, "one")
    expect(messages(bob)).to_have_count(1)
    say(bob, "two")
    expect(messages(ana)).to_have_count(2)
    for _ in range(2):
        cable.cut()
        missed = [f"{len(said) + number}, while you were away" for number in range(3)]
        for text in missed:
            said.append(text)
            say(ana, text)
            expect(messages(ana)).to_have_count(len(said))
        cable.mend()
        expect(messages(bob)).to_have_count(len(said))
        said.append("live again")
        say(ana, "live again")
        for page in (ana, bob):
            expect(messages(page).locator(".text")).to_have_text(said)
    expect(bob.get_by_text("No messages were missed.")).to_have_count(2)
    assert noise(server) == ""


@pytest.mark.parametrize(("lost_from", "lost"), [("page", "say"), ("server", "room.said")])
def test_what_was_on_its_way_when_the_connection_broke_arrives_once(
    open_window: Open, lost_from: str, lost: str
) -> None:
    ana, bob = open_window("Ana"), open_window()
    cable = Cable(bob)
    enter(bob, "Bob")
    said = ["on its way"]
    cable.swallows = [lost_from]
    say(bob, "on its way")
    assert cable.lost(lost)["text"] == said[0]
    cable.cut()
    cable.swallows = []
    cable.mend()
    expect(messages(bob).locator(".text")).to_have_text(said)
    say(bob, "and now")
    for page in (ana, bob):
        expect(messages(page).locator(".text")).to_have_text([*said, "and now"])
        expect(page.get_by_text("via server 2")).to_have_count(2)


def test_a_message_that_was_refused_for_now_takes_no_other_ones_place(open_window: Open) -> None:
    bob = open_window()
    cable = Cable(bob)
    enter(bob, "Bob")
    cable.swallows = ["page"]
    say(bob, "the first")
    bob.get_by_label("Message to").fill("the second")
    refused = cable.lost("say")["id"]
    cable.send_to_page(type="error", frame="message", code="not_sent", reason="Not now", id=refused)
    expect(bob.get_by_role("alert")).to_have_text("Not now")
    expect(bob.get_by_label("Message to")).to_have_value("the second")
    cable.cut()
    cable.swallows = []
    cable.mend()
    expect(messages(bob).locator(".text")).to_have_text(["the first"])
    expect(bob.get_by_role("alert")).to_be_empty()
    expect(bob.get_by_label("Message to")).to_have_value("the second")


def test_a_page_that_is_opened_shows_the_last_messages(open_window: Open) -> None:
    ana = open_window("Ana", room="kitchen")
    expect(ana.get_by_text("This server keeps the last messages for a while.")).to_be_visible()
    for number in range(55):
        say(ana, f"number {number}")
    expect(messages(ana)).to_have_count(55)
    bob = open_window("Bob", room="kitchen")
    expect(messages(bob).locator(".text")).to_have_text([f"number {number}" for number in range(5, 55)])
    say(ana, "number 55")
    expect(messages(bob).last.locator(".text")).to_have_text("number 55")
    expect(messages(bob)).to_have_count(51)
    expect(people(bob)).to_have_text(["Ana", "Bob"])


def test_windows_are_told_when_the_broker_lost_its_memory(open_window: Open, broker: brokers.Redis) -> None:
    ana, bob = open_window("Ana", room="garden"), open_window("Bob", room="garden")
    say(ana, "before")
    expect(messages(bob)).to_have_count(1)
    broker.server.kill()
    broker.server.start()
    for page in (ana, bob):
        expect(page.get_by_text("Messages sent in the meantime aren't shown.")).to_be_visible()
        expect(page.locator("#connection")).to_have_text("Connected")
    expect(people(ana)).to_have_text(["Ana", "Bob"])
    say(bob, "after")
    for page in (ana, bob):
        expect(messages(page).locator(".text")).to_have_text(["before", "after"])
