"""The demo chat as people meet it: in windows of a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.conftest import Open
from tests.support.brokers.server import Server

MARKUP = "<img src=x onerror=\"document.title='broken into'\"><script>document.title='broken into'</script>"


def say(page: Page, text: str) -> None:
    page.get_by_label("Message to").fill(text)
    page.keyboard.press("Enter")


def messages(page: Page) -> Locator:
    return page.get_by_role("log").get_by_role("article")


def people(page: Page) -> Locator:
    return page.locator("#people bdi")


def test_two_windows_see_each_other_live(open_window: Open) -> None:
    ana, bob = open_window("Ana"), open_window("Bob")
    for page in (ana, bob):
        expect(people(page)).to_have_text(["Ana", "Bob"])
    expect(ana.get_by_text("Bob joined")).to_be_visible()
    said = [(ana, "Is the kettle on?"), (bob, "It is."), (bob, "Tea?"), (ana, "Peppermint \U0001f33f,\nplease")]
    for number, (speaker, text) in enumerate(said, start=1):
        say(speaker, text)
        for page in (ana, bob):
            expect(messages(page)).to_have_count(number)
            expect(messages(page).last.locator(".text")).to_have_text(text, use_inner_text=True)
    expect(messages(ana).nth(1).get_by_text("Bob", exact=True)).to_be_visible()
    bob.close()
    expect(ana.get_by_text("Bob left")).to_be_visible()
    expect(people(ana)).to_have_text(["Ana"])


def test_rooms_are_apart(open_window: Open) -> None:
    ana, bob, eve = open_window("Ana"), open_window("Bob"), open_window("Eve", room="kitchen")
    say(ana, "for this room")
    expect(messages(bob)).to_have_count(1)
    bob.get_by_role("link", name="kitchen").click()
    expect(bob.get_by_role("heading", level=1)).to_have_text("kitchen")
    expect(people(eve)).to_have_text(["Bob", "Eve"])
    say(bob, "for the kitchen")
    expect(messages(eve)).to_have_count(1)
    expect(messages(eve).get_by_text("for the kitchen")).to_be_visible()
    eve.get_by_label("Another room").fill(" Movie Night!")
    eve.keyboard.press("Enter")
    expect(eve.get_by_role("heading", level=1)).to_have_text("movie-night")
    expect(eve.locator("#connection")).to_have_text("Connected")


def test_markup_stays_text(open_window: Open) -> None:
    ana, eve = open_window("Ana", "workshop"), open_window("<i>Eve</i><img src=x>", "workshop")
    say(eve, MARKUP)
    say(eve, "/roll 1d6<b>")
    expect(eve.get_by_role("alert")).to_contain_text("for example /roll 2d6")
    for page in (ana, eve):
        expect(messages(page).locator(".text")).to_have_text([MARKUP])
        expect(people(page)).to_have_text(["<i>Eve</i><img src=x>", "Ana"])
        expect(page.locator("main img, main i, aside img, aside i, main script")).to_have_count(0)
        assert page.title() == "workshop \N{MIDDLE DOT} chat"
    expect(ana.get_by_text("<i>Eve</i><img src=x> joined")).to_be_visible()


def test_both_windows_come_back_after_the_server_was_restarted(open_window: Open, server: Server) -> None:
    ana, bob = open_window("Ana"), open_window("Bob")
    say(ana, "before")
    expect(messages(bob)).to_have_count(1)
    server.kill()
    for page in (ana, bob):
        expect(page.locator("#connection")).to_have_text("Connection lost")
        expect(page.get_by_text("No connection. Retrying")).to_be_visible()
    say(ana, "is anybody there?")
    expect(ana.get_by_role("alert")).to_have_text("Message not sent: no connection. It stays here.")
    expect(ana.get_by_label("Message to")).to_have_value("is anybody there?")
    server.start()
    for page in (ana, bob):
        expect(page.locator("#connection")).to_have_text("Connected")
        expect(page.get_by_text("Reconnected after")).to_be_visible()
        expect(page.get_by_text("No connection. Retrying")).to_be_hidden()
        expect(people(page)).to_have_text(["Ana", "Bob"])
    ana.get_by_role("button", name="Send").click()
    say(bob, "I am")
    for page in (ana, bob):
        expect(messages(page).locator(".text")).to_have_text(["before", "is anybody there?", "I am"])


def test_the_background_worker_answers_both(open_window: Open) -> None:
    ana, bob = open_window("Ana"), open_window("Bob")
    expect(ana.locator("#worker")).to_have_text("Running")
    say(ana, "/roll 3d6")
    say(bob, "/factor 600851475143")
    for page in (ana, bob):
        rolled = messages(page).filter(has_text="/roll 3d6").locator("output:not(.waiting)")
        expect(rolled).to_contain_text("=")
        dice, _, total = rolled.inner_text().partition(" = ")
        assert sum(map(int, dice.split(" + "))) == int(total)
        assert len(dice.split(" + ")) == 3
        factored = messages(page).filter(has_text="/factor").locator("output:not(.waiting)")
        expect(factored).to_contain_text("600851475143 = 71 \N{MULTIPLICATION SIGN} 839 \N{MULTIPLICATION SIGN} 1471")


def test_the_page_says_when_no_worker_runs(open_window: Open) -> None:
    ana = open_window()
    ana.clock.install()
    ana.route_web_socket("**/ws/", _without("worker.here", "room.answered"))
    ana.reload()
    ana.get_by_label("Your name").fill("Ana")
    ana.keyboard.press("Enter")
    expect(people(ana)).to_have_text(["Ana"])
    ana.clock.fast_forward(5_000)
    expect(ana.locator("#worker")).to_have_text("No worker running")
    cure = "Start one, with the server's environment variables: python3 testproject runworker chat-worker"
    expect(ana.get_by_text(cure)).to_be_visible()
    say(ana, "/roll 2d6")
    expect(messages(ana).locator("output")).to_have_text("Working...")
    ana.clock.fast_forward(5_000)
    expect(messages(ana).locator("output")).to_have_text(f"No worker has answered yet. {cure}")


def test_windows_of_one_name_are_one_person_and_a_reload_flashes_nobody(open_window: Open) -> None:
    ana, bob = open_window("Ana", room="cellar"), open_window("Bob", room="cellar")
    second = open_window("Bob", room="cellar")
    for page in (ana, bob, second):
        expect(people(page)).to_have_text(["Ana", "Bob"])
        expect(page.locator("#people small").filter(has_text="in 2 windows")).to_be_visible()
    second.close()
    expect(ana.locator("#people small").filter(has_text="in 2 windows")).to_have_count(0)
    bob.reload()
    expect(bob.locator("#connection")).to_have_text("Connected")
    open_window("Eve", room="cellar").close()
    expect(ana.get_by_text("Eve left")).to_be_visible()
    expect(ana.get_by_text("Bob left")).to_have_count(0)
    expect(ana.get_by_text("Bob joined")).to_have_count(1)
    expect(people(ana)).to_have_text(["Ana", "Bob"])


def _without(*kinds: str) -> Callable[[WebSocketRoute], None]:
    """Lets through everything but messages of these types from the server."""

    def connect(route: WebSocketRoute) -> None:
        def pass_on(frame: str | bytes) -> None:
            if json.loads(frame).get("message", {}).get("type") not in kinds:
                route.send(frame)

        route.connect_to_server().on_message(pass_on)

    return connect


def test_other_scripts_of_the_page_may_listen_and_speak(open_window: Open, server: Server) -> None:
    ana, bob = open_window("Ana"), open_window("Bob")
    ana.evaluate("""window.heard = [];
        for (const type of ["chat:sent", "chat:received", "chat:state"])
          document.addEventListener(type, ({ detail }) => heard.push([type, detail]));
        document.dispatchEvent(new CustomEvent("chat:say", { detail: { text: "by a script" } }));""")
    expect(messages(bob).locator(".text")).to_have_text(["by a script"])
    say(bob, "/roll 1d2")
    expect(messages(ana).locator("output:not(.waiting)")).to_have_count(1)
    rolled = messages(ana).locator("output").inner_text()
    sent, *received = ana.evaluate("heard")
    asked = received[1][1]["id"]
    assert received == [
        ["chat:received", {"id": sent[1]["id"], "own": True, "server": "", "text": "by a script"}],
        ["chat:received", {"id": asked, "own": False, "server": "", "text": "/roll 1d2"}],
        ["chat:received", {"id": f"{asked}:answer", "own": False, "server": "", "text": rolled}],
    ]
    server.kill()
    expect(ana.locator("#connection")).to_have_text("Connection lost")
    server.start()
    expect(ana.locator("#connection")).to_have_text("Connected")
    assert ana.evaluate("heard.slice(4)") == [["chat:state", {"state": "lost"}], ["chat:state", {"state": "open"}]]


def test_what_is_refused_can_be_put_right(open_window: Open) -> None:
    ana = open_window("Ana")
    say(ana, "/roll 2000d6")
    expect(ana.get_by_role("alert")).to_contain_text("Roll 1 to 20 dice")
    expect(ana.get_by_label("Message to")).to_have_value("/roll 2000d6")
    say(ana, "/roll 1d2")
    expect(messages(ana).locator("output:not(.waiting)")).to_have_text(re.compile("^[12]$"))
    expect(ana.get_by_role("alert")).to_be_empty()
    expect(ana.get_by_label("Message to")).to_be_empty()


def test_a_name_that_is_refused_can_be_put_right(open_window: Open) -> None:
    ana = open_window()
    for name in ["\u200b\u2060", "\N{HANGUL FILLER}"]:
        ana.get_by_label("Your name").fill(name)
        ana.keyboard.press("Enter")
        expect(ana.get_by_role("dialog")).to_be_visible()
        expect(ana.get_by_role("dialog").get_by_role("alert")).to_have_text("A name has 1 to 32 visible characters.")
        expect(ana.locator("#connection")).not_to_have_text("Connected")
        ana.keyboard.press("Escape")
        expect(ana.get_by_role("dialog")).to_be_visible()
    ana.get_by_label("Your name").fill("Ana")
    ana.keyboard.press("Enter")
    expect(ana.locator("#connection")).to_have_text("Connected")
    expect(people(ana)).to_have_text(["Ana"])
    expect(ana.get_by_text("No messages yet.")).to_be_visible()
    expect(ana.get_by_text("This server keeps the last messages for a while.")).to_be_visible()


def test_what_is_typed_has_its_own_direction_and_turns_no_other(open_window: Open) -> None:
    ana, eve = open_window("Ana"), open_window("\u05d0\u05e0\u05d4")
    say(eve, "\u05e9\u05dc\u05d5\u05dd 123!")
    say(ana, "Hello 123!")
    expect(messages(ana)).to_have_count(2)
    assert messages(ana).locator(".text").evaluate_all(_DIRECTIONS) == ["rtl", "ltr"]
    for named in ("#people bdi", ".message b bdi", ".notice bdi"):
        assert "rtl" in ana.locator(named).evaluate_all(_DIRECTIONS), named
    assert set(ana.locator(".notice, .message header, #people li").evaluate_all(_DIRECTIONS)) == {"ltr"}
    ana.get_by_label("Message to").fill("\u05e9\u05dc\u05d5\u05dd")
    assert ana.get_by_label("Message to").evaluate_all(_DIRECTIONS) == ["rtl"]


_DIRECTIONS = "all => all.map(each => getComputedStyle(each).direction)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(open_window: Open, server: Server, scheme: str) -> None:
    eve, ana = open_window("Eve"), open_window("Ana", color_scheme=scheme)
    say(ana, "mine")
    say(eve, "/roll 2d6")
    say(ana, "/factor 91")
    expect(messages(ana).locator("output:not(.waiting)")).to_have_count(2)
    say(ana, "/dance")
    expect(ana.locator("#problem")).not_to_be_empty()
    assert ana.evaluate(_FAINT) == []
    ana.get_by_role("button", name="Change my name").click()
    assert ana.evaluate(_FAINT) == []
    ana.keyboard.press("Escape")
    server.kill()
    expect(ana.locator("#connection")).to_have_text("Connection lost")
    assert ana.evaluate(_FAINT) == []


# WCAG 2: the contrast of each text with what is behind it, of which 4.5 is the least that is easy to read.
_FAINT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (below, color, alpha = 1) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.globalAlpha = 1;
    canvas.fillStyle = `rgb(${below})`;
    canvas.fillRect(0, 0, 1, 1);
    canvas.globalAlpha = alpha;
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const below = element.parentElement && !element.matches("dialog") ? behind(element.parentElement) : [255, 255, 255];
    return over(below, getComputedStyle(element).backgroundColor);
  };
  const opacity = (element) => (element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1);
  const faint = [];
  for (const element of document.body.querySelectorAll("*")) {
    const said = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const { width, height } = element.getBoundingClientRect();
    if (!said.length || !element.checkVisibility({ visibilityProperty: true }) || width * height <= 1) continue;
    const back = behind(element);
    const front = over(back, getComputedStyle(element).color, opacity(element));
    const [dark, light] = [luminance(back), luminance(front)].sort((a, b) => a - b);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) faint.push(`${element.tagName}.${element.className}#${element.id} ${contrast.toFixed(2)}`);
  }
  return faint;
}"""


def test_by_keyboard_only(open_window: Open) -> None:
    bob, ana = open_window("Bob"), open_window()
    expect(ana.get_by_label("Your name")).to_be_focused()
    for key in ["Escape", "Escape", "Escape", "Enter"]:
        ana.keyboard.press(key)
        expect(ana.get_by_role("dialog")).to_be_visible()
    ana.keyboard.type("Ana")
    ana.keyboard.press("Enter")
    expect(ana.get_by_role("dialog")).to_be_hidden()
    expect(ana.locator("#connection")).to_have_text("Connected")
    expect(ana.get_by_label("Message to")).to_be_focused()
    ana.keyboard.type("one")
    ana.keyboard.press("Shift+Enter")
    ana.keyboard.type("two")
    ana.keyboard.press("Enter")
    expect(messages(bob).locator(".text")).to_have_text("one\ntwo", use_inner_text=True)
    expect(ana.get_by_label("Message to")).to_be_focused()
    ana.keyboard.press("Shift+Tab")
    expect(ana.get_by_role("log")).to_be_focused()
    ana.reload()
    expect(ana.locator("#connection")).to_have_text("Connected")
    backwards = 0
    while not _is_focused(ana.get_by_role("link", name="kitchen")):
        ana.keyboard.press("Shift+Tab")
        backwards += 1
        assert backwards < 20
    ana.keyboard.press("Enter")
    expect(ana.get_by_role("heading", level=1)).to_have_text("kitchen")
    expect(ana.get_by_label("Message to")).to_be_focused()


def test_who_comes_in_takes_nobodys_place_on_the_page(open_window: Open) -> None:
    ana = open_window("Ana", room="attic")
    ana.get_by_role("link", name="Open a second window").focus()
    open_window("Bob", room="attic")
    expect(ana.get_by_text("Bob joined")).to_be_visible()
    expect(ana.get_by_role("log")).to_be_focused()


def _is_focused(locator: Locator) -> bool:
    focused: bool = locator.evaluate("element => element === document.activeElement")
    return focused


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_sticks_out_on_a_phone(open_window: Open, server: Server, width: int) -> None:
    phone = open_window("Ana" * 10, viewport={"width": width, "height": 640}, has_touch=True)
    say(phone, "x" * 500)
    say(phone, "/factor 99999999999973")
    say(phone, "/dance")
    expect(messages(phone).locator("output:not(.waiting)")).to_contain_text("is a prime")
    expect(phone.get_by_role("alert")).not_to_be_empty()
    _fits(phone)
    phone.get_by_role("button", name="Rooms").click()
    expect(phone.get_by_role("link", name="kitchen")).to_be_in_viewport()
    _fits(phone)
    phone.keyboard.press("Escape")
    expect(phone.get_by_role("link", name="kitchen")).to_be_hidden()
    server.kill()
    expect(phone.get_by_role("button", name="Try now")).to_be_in_viewport(ratio=1)
    expect(phone.get_by_label("Message to")).to_be_in_viewport(ratio=1)
    _fits(phone)


def test_the_phone_drawer_takes_the_keyboard_along(open_window: Open) -> None:
    phone = open_window("Ana", "lobby", viewport={"width": 390, "height": 640})
    menu = phone.get_by_role("button", name="Rooms")
    menu.focus()
    phone.keyboard.press("Enter")
    side = phone.locator("#side")
    stops = [side.get_by_role("link", name=room) for room in ("lobby", "kitchen", "workshop", "garden")]
    stops += [side.get_by_label("Another room"), side.get_by_role("button", name="Go")]
    stops += [side.get_by_role("button", name="Change my name"), menu]
    for stop in stops:
        expect(stop).to_be_focused()
        expect(menu).to_have_attribute("aria-expanded", "true")
        phone.keyboard.press("Tab")
    expect(phone.get_by_role("log")).to_be_focused()
    expect(menu).to_have_attribute("aria-expanded", "false")
    expect(stops[0]).to_be_hidden()
    menu.focus()
    phone.keyboard.press("Enter")
    expect(stops[0]).to_be_focused()
    phone.keyboard.press("Escape")
    expect(menu).to_be_focused()


def _fits(page: Page) -> None:
    inside, outside = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert inside <= outside
    wide = page.locator("#log, main, aside, .say").evaluate_all(
        "all => all.filter(each => each.scrollWidth > each.clientWidth).map(each => each.id || each.tagName)"
    )
    assert wide == []
