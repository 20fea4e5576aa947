"""The stage: every button is pressed, and what was sent is there again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.asgi.serving import noise
from tests.asgi.stage import stage
from tests.browser.conftest import Open
from tests.browser.npm import folder_of
from tests.browser.test_chat import messages, people, say
from tests.support.brokers.server import Server, ServerMissing, running, wait_until

DESK: Any = {"viewport": {"width": 1440, "height": 1000}}
PHONE: Any = {"viewport": {"width": 390, "height": 844}}
PATIENCE = 60_000
"""Milliseconds for what takes longer than an answer: processes that start again, jobs that are delivered again."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The stage on a Valkey of its own, with a lamp and a thermometer."""
    server = stage(devices=True)
    with running(server):
        yield server


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def expect_counters(page: Page, count: int) -> None:
    """All that this window has sent is back."""
    expect(page.locator("#stage-received")).to_have_text(str(count), timeout=PATIENCE)
    expect(page.locator("#stage-sent")).to_have_text(str(count))
    expect(page.locator("#stage-missing")).to_have_text("0")
    expect(page.locator("#stage-numbers")).to_have_attribute("data-equal", "yes")


def violations(page: Page) -> list[str]:
    """What axe-core finds, and where."""
    try:
        source = (folder_of("axe-core") / "axe.min.js").read_text()
    except ServerMissing as missing:
        pytest.skip(f"accessibility is not checked: {missing}")
    page.evaluate(source)
    result = page.evaluate("axe.run()")
    assert len(result["passes"]) > 20
    return [f"{each['id']}: {node['html'][:200]}" for each in result["violations"] for node in each["nodes"]]


def test_nothing_is_lost_when_the_broker_and_the_server_are_killed(open_window: Open, server: Server) -> None:
    ana, bob = open_window("Ana", **DESK), open_window("Bob", **DESK)
    press(ana, "Send 100 messages")
    expect_counters(ana, 100)

    press(ana, "Send 100 messages")
    press(ana, "Stop the broker")
    wait_until(lambda: "broker has ended, and starts again" in server.output(last=100_000), "the broker was killed")
    say(bob, "sent to no broker")
    expect_counters(ana, 200)
    expect_counters(bob, 1)
    expect(ana.locator("#stage-state")).to_have_text("All is well.", timeout=PATIENCE)

    expect(ana.locator("#connection")).to_have_text("Connected", timeout=PATIENCE)
    press(ana, "Send 100 messages")
    press(ana, "Kill my server")
    outcome = ana.locator("#stage-server-outcome")
    expect(outcome).to_have_text(
        re.compile(r"server-[12] was killed\. server-[12] serves this window now\."), timeout=PATIENCE
    )
    expect_counters(ana, 302)  # with the two questions to the server
    expect_counters(bob, 1)
    for page in (ana, bob):
        expect(messages(page)).to_have_count(303, timeout=PATIENCE)
    assert re.search(r"server-[12] has ended, and starts again", server.output(last=100_000))


def test_a_job_outlives_its_worker(open_window: Open) -> None:
    ana, bob = open_window("Ana", **DESK), open_window("Bob", **DESK)
    press(ana, "Start a job")
    for page in (ana, bob):
        expect(page.locator("#stage-job-outcome")).to_have_text(
            re.compile(r"worker-[12] had it first.* finished it"), timeout=PATIENCE
        )
    press(ana, "Kill the worker")
    for page in (ana, bob):
        expect(page.locator("#stage-job-outcome")).to_have_text(
            re.compile(r"worker-[12] had it first, and worker-[12] finished it, in delivery [2-5]\."), timeout=PATIENCE
        )
        expect(page.get_by_label("Progress of the job")).to_have_js_property("value", 1)


def test_a_message_is_sent_if_its_transaction_commits(open_window: Open) -> None:
    ana, bob = open_window("Ana", **DESK), open_window("Bob", **DESK)
    outcome = ana.locator("#stage-post-outcome")
    press(ana, "Post and commit")
    expect(outcome).to_have_text(re.compile(r"Committed\. The table has \d+ rows?\."))
    rows = re.findall(r"\d+", outcome.inner_text())
    press(ana, "Post and roll back")
    expect(outcome).to_contain_text("Rolled back.")
    assert re.findall(r"\d+", outcome.inner_text()) == rows
    press(ana, "Post and commit")
    for page in (ana, bob):
        # What had been sent before the last one would be there by now.
        expect(page.locator("#stage-posts li")).to_have_text(["Post 3, committed", "Post 1, committed"])


def test_a_lamp_and_a_thermometer(open_window: Open) -> None:
    ana, bob = open_window("Ana", **DESK), open_window("Bob", **DESK)
    for on in ("true", "false"):
        ana.get_by_role("switch", name="Lamp").click()
        for page in (ana, bob):
            expect(page.get_by_role("switch", name="Lamp")).to_have_attribute("aria-checked", on)
            expect(page.locator("#stage-lamp-state")).to_have_text("on" if on == "true" else "off")
            expect(page.locator("#stage-celsius")).to_have_text(re.compile(r"\d\d(\.\d)? °C"))


def test_the_numbers_are_the_layers_own(open_window: Open) -> None:
    ana = open_window("Ana", **DESK)
    for _ in range(2):
        open_window("Bob", **DESK)
    expect(ana.locator("#stage-windows")).to_have_text("3")
    expect(ana.locator("#stage-names")).to_have_text("2")
    expect(ana.locator("#stage-cost")).to_have_text("1")  # with any number of windows
    expect(ana.locator("#stage-lag")).to_have_text(re.compile(r"\d+\.\d ms"))


def test_names_and_messages_from_right_to_left(open_window: Open) -> None:
    ana = open_window("\u05de\u05e8\u05d9\u05dd", **DESK)
    say(ana, "\u0634\u0644\u0648\u0645 (1)")
    text = messages(ana).locator(".text")
    expect(text).to_have_css("direction", "rtl")
    expect(people(ana)).to_have_text(["\u05de\u05e8\u05d9\u05dd"])
    expect_counters(ana, 1)
    assert ana.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_is_accessible(open_window: Open, size: Any, scheme: str) -> None:
    page = open_window("Ana", **size, color_scheme=scheme)
    summary = page.locator("#stage > summary")
    if size is PHONE:
        expect(page.locator("#stage")).not_to_have_attribute("open", "")
        assert violations(page) == []
        summary.focus()
        page.keyboard.press("Enter")
    expect(page.locator("#stage")).to_have_attribute("open", "")
    expect(page.locator("#stage-state")).to_have_text("All is well.", timeout=PATIENCE)
    summary.focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send 100 messages")).to_be_focused()
    expect(page.locator("#stage-send")).to_have_css("outline-style", "solid")
    page.keyboard.press("Space")
    expect_counters(page, 100)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_a_broker_there_is_less_to_kill(browser: Browser) -> None:
    server = stage(VALKEY_SERVER="false")
    with running(server), browser.new_context(base_url=f"http://127.0.0.1:{server.port}", **DESK) as context:
        assert "Valkey doesn't start here: one server has all messages in its memory" in server.output()
        page = context.new_page()
        page.goto("/room/lobby/")
        page.get_by_label("Your name").fill("Ana")
        page.keyboard.press("Enter")
        for name in ("Stop the broker", "Kill my server", "Kill the worker"):
            button = page.get_by_role("button", name=name)
            expect(button).to_be_disabled()
            expect(button).to_have_accessible_description(re.compile("Off: in memory there is one process."))
        expect(page.get_by_role("switch", name="Lamp")).to_be_disabled()
        expect(page.locator("#stage-lamp-why")).to_contain_text("mosquitto is not installed")
        expect(page.locator("#connection")).to_have_text("Connected")
        press(page, "Send 100 messages")
        expect_counters(page, 100)
        press(page, "Start a job")
        expect(page.locator("#stage-job-outcome")).to_have_text(
            "server-1 had it first and finished it.", timeout=PATIENCE
        )
        press(page, "Post and commit")
        expect(page.locator("#stage-posts li")).to_have_text("Post 1, committed")
        expect(page.locator("#stage-cost")).to_have_text("1")
        assert violations(page) == []
        assert noise(server) == ""
