"""The demo chat's server side: what it answers, and that nothing a page may send ends a connection."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.exceptions import InvalidStatus

from tests.asgi.client import Client, client
from tests.asgi.serving import noise
from tests.support.brokers.server import Server

REFUSED: list[tuple[str | bytes, str]] = [
    ("{", "That is not JSON."),
    ("[" * 8000, "That is not JSON."),
    ("[]", "That is JSON, but not an object."),
    ("null", "That is JSON, but not an object."),
    (b"\xff\x00", "This chat speaks JSON text, not binary."),
    ('"' + "x" * 10_000 + '"', "That is more than 8192 characters at once."),
    ("{}", "This chat knows the types join, say and here."),
    ('{"type": ["say"]}', "This chat knows the types join, say and here."),
    ('{"type": "join", "room": "lobby", "name": "Eve"}', "You are in a room already."),
    ('{"type": "say"}', "The text is missing."),
    ('{"type": "say", "text": " \\n "}', "A message has 1 to 2000 visible characters."),
    ('{"type": "say", "text": "\\u200b\\u2060\\u3164"}', "A message has 1 to 2000 visible characters."),
    (json.dumps({"type": "say", "text": "x" * 2001}), "A message has 1 to 2000 visible characters."),
    ('{"type": "say", "text": "\\ud83d"}', "The text has half a character in it."),
    ('{"type": "say", "text": "/dance"}', "There is no command /dance."),
    ('{"type": "say", "text": "/roll 1000d6"}', "Roll 1 to 20 dice of 2 to 1000 sides, for example /roll 2d6."),
    ('{"type": "say", "text": "/roll \N{ARABIC-INDIC DIGIT TWO}d6"}', "Roll 1 to 20 dice"),
    ('{"type": "say", "text": "/factor 1"}', "Give /factor a whole number from 2 to"),
    ('{"type": "say", "text": "/factor 100000000000001"}', "Give /factor a whole number from 2 to"),
]


def _join(someone: Client, name: str = "Ana", room: str = "lobby") -> Any:
    someone.send(type="join", room=room, name=name)
    return someone.receive_until(type="joined")


def test_whoever_is_in_the_room_hears_it(demo: Server) -> None:
    with client(demo, "ws/") as ana, client(demo, "ws/") as bob, client(demo, "ws/") as eve:
        _join(ana, "Ana")
        _join(bob, "  B\u202eo\x00b  ")
        _join(eve, "Eve", "kitchen")
        ana.send(type="say", text="Hello <b>Bob</b> \U0001f600")
        for each in (ana, bob):
            received = each.receive_until(type="said")
            assert (received["name"], received["text"]) == ("Ana", "Hello <b>Bob</b> \U0001f600")
        eve.send(type="say", text="the first for the kitchen")
        assert eve.receive_until(type="said")["text"] == "the first for the kitchen"
    assert noise(demo) == ""


def test_a_newcomer_is_told_who_is_there_and_the_others_of_the_newcomer(demo: Server) -> None:
    with client(demo, "ws/") as ana, client(demo, "ws/") as bob, client(demo, "ws/") as eve:
        _join(ana, "Ana", "attic")
        _join(bob, "Bob", "attic")
        ana.receive_until(type="came", name="Bob")
        assert _join(eve, "Eve", "attic")["people"] == {"Ana": 1, "Bob": 1, "Eve": 1}
        for each in (ana, bob):
            assert each.receive_until(type="came", name="Eve") == {"type": "came", "name": "Eve", "windows": 1}
        ana.send(type="here")
        ana.receive_until(type="here")  # and nobody else is told that
        ana.send(type="say", text="after")
        for each in (bob, eve):
            told = [each.receive()]
            while told[-1]["type"] != "said":
                told.append(each.receive())
            assert "here" not in {frame["type"] for frame in told}


def test_two_windows_are_one_person(demo: Server) -> None:
    with client(demo, "ws/") as ana, client(demo, "ws/") as bob:
        _join(ana, "Ana", "cellar")
        _join(bob, "Bob", "cellar")
        ana.receive_until(type="came", name="Bob")
        with client(demo, "ws/") as second:
            assert _join(second, "Bob", "cellar")["people"] == {"Ana": 1, "Bob": 2}
            assert ana.receive_until(type="came", name="Bob")["windows"] == 2
        assert ana.receive_until(type="came", name="Bob")["windows"] == 1


def test_who_leaves_is_missed(demo: Server) -> None:
    with client(demo, "ws/") as ana:
        _join(ana, room="porch")
        with client(demo, "ws/") as bob:
            _join(bob, "Bob", "porch")
            ana.receive_until(type="came", name="Bob")
        assert ana.receive_until(type="left") == {"type": "left", "name": "Bob"}


def test_who_leaves_while_being_told_something_is_missed_too(demo: Server) -> None:
    with client(demo, "ws/") as ana:
        _join(ana)
        for number in range(5):
            with client(demo, "ws/") as bob:
                _join(bob, f"Bob {number}")
                for _ in range(20):
                    bob.send(type="here")
        for number in range(5):
            ana.receive_until(type="left", name=f"Bob {number}")
    assert noise(demo) == ""


def test_nothing_that_a_page_sends_ends_its_connection(demo: Server) -> None:
    with client(demo, "ws/") as ana:
        ana.send(type="say", text="too early")
        assert ana.receive() == {"type": "problem", "text": "Join a room first."}
        for name in ["", "x" * 33, "\x07", "\u200b", "\u3164\u200d\ufe0f", "\u0301", None, 7]:
            ana.send(type="join", room="lobby", name=name)
            assert "name" in ana.receive()["text"]
        ana.send(type="join", room="lobby", name="Ana", since=7)
        assert ana.receive()["text"].startswith("The position of the last message is a string")
        for room in ["", "x" * 33, "Lobby", "a/b", "lobby\n", "-", None]:
            ana.send(type="join", room=room, name="Ana")
            assert ana.receive()["text"].startswith("A room's name is 1 to 32 lower-case letters")
        _join(ana)
        for frame, problem in REFUSED:
            ana.socket.send(frame)
            assert ana.receive_until(type="problem")["text"].startswith(problem)
        ana.send(type="say", text="/help")
        assert "/roll 2d6" in ana.receive_until(type="help")["text"]
        ana.send(type="say", text="still here")
        assert ana.receive_until(type="said")["text"] == "still here"
    assert noise(demo) == ""


def test_other_sites_and_other_paths_are_turned_away(demo: Server) -> None:
    with pytest.raises(InvalidStatus, match="403"), client(demo, "ws/", origin="http://elsewhere.example"):
        pass
    with pytest.raises(InvalidStatus, match="403"), client(demo, "elsewhere/"):
        pass
    assert noise(demo) == ""


def test_the_page_may_run_its_own_script_only(demo: Server) -> None:
    here = f"http://127.0.0.1:{demo.port}"
    with urlopen(here, timeout=20) as page:
        assert page.url == f"{here}/room/lobby/"
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    with urlopen(f"{here}/static/chat/chat.js", timeout=20) as script:
        assert b"innerHTML" not in script.read()
    with pytest.raises(HTTPError, match="404") as refused:
        urlopen(f"{here}/room/%3Cscript%3E/", timeout=20)
    refused.value.close()
