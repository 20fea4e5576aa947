"""The demo chat while its broker is away: the server still answers, but nothing that is said arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.asgi.serving import serve
from tests.browser.conftest import Open
from tests.browser.test_chat import messages, people, say
from tests.support.brokers import redis as brokers
from tests.support.brokers.server import Server, running


@pytest.fixture(scope="module")
def server(broker: brokers.Redis) -> Iterator[Server]:
    server = serve("runserver", "config", broker.url)
    with running(server):
        yield server


def test_windows_do_not_look_connected_while_the_broker_is_away(
    open_window: Open, broker: brokers.Redis, server: Server
) -> None:
    ana, bob, eve = open_window("Ana"), open_window(), open_window("Eve")
    bob.clock.install()
    bob.reload()
    bob.get_by_label("Your name").fill("Bob")
    bob.keyboard.press("Enter")
    expect(people(bob)).to_have_text(["Ana", "Bob", "Eve"])
    expect(eve.locator("#kept")).to_have_text("This server doesn't store messages.")
    broker.server.kill()
    try:
        say(ana, "does anybody read this?")
        bob.clock.fast_forward(20_000)  # until it asks whether it is still connected
        expect(ana.get_by_role("alert")).to_have_text("Message not sent. Try again in a moment.")
        expect(ana.get_by_label("Message to")).to_have_value("does anybody read this?")
        for page in (ana, bob):
            expect(page.locator("#connection")).to_have_text("Connection lost")
            expect(page.get_by_text("No connection. Retrying")).to_be_visible()
        assert str(broker.server.port) in server.output()  # the log has the reason
    finally:
        broker.server.start()
    for page in (ana, bob, eve):
        expect(page.get_by_text("Messages sent in the meantime aren't shown.").first).to_be_visible()
        expect(page.locator("#connection")).to_have_text("Connected")
        expect(people(page)).to_have_text(["Ana", "Bob", "Eve"])
    ana.keyboard.press("Enter")
    for page in (ana, bob, eve):
        expect(messages(page).locator(".text")).to_have_text(["does anybody read this?"])
