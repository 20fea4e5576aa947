"""The demo chat's server side: what it answers, what it refuses, and that nothing a page may send harms others."""

from __future__ import annotations

from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.asgi.chat import Person
from tests.asgi.client import client
from tests.asgi.serving import noise
from tests.support.brokers.server import Server

REFUSED: list[tuple[Any, str]] = [
    (None, "This chat knows two types of messages"),
    ([], "This chat knows two types of messages"),
    ({"type": ["say"]}, "This chat knows two types of messages"),
    ({"type": "say", "id": "1"}, "This chat knows two types of messages"),
    ({"type": "say", "id": 1, "text": "one"}, "This chat knows two types of messages"),
    ({"type": "say", "id": "x" * 65, "text": "one"}, "This chat knows two types of messages"),
    ({"type": "room.said", "id": "1", "text": "one"}, "This chat knows two types of messages"),
]

REFUSED_TEXTS = [
    (" \n ", "A message has 1 to 2000 visible characters."),
    ("\u200b\u2060\u3164", "A message has 1 to 2000 visible characters."),
    ("x" * 2001, "A message has 1 to 2000 visible characters."),
    ("/dance", "There is no command /dance."),
    ("/roll 1000d6", "Roll 1 to 20 dice of 2 to 1000 sides, for example /roll 2d6."),
    ("/roll \N{ARABIC-INDIC DIGIT TWO}d6", "Roll 1 to 20 dice"),
    ("/factor 1", "Give /factor a whole number from 2 to"),
    ("/factor 100000000000001", "Give /factor a whole number from 2 to"),
]

HOSTILE: list[str | bytes] = ["{", "[" * 8000, "null", b"\xff\x00", '"' + "x" * 20_000 + '"', '{"type": "say"}']


def test_whoever_is_in_the_room_hears_it(demo: Server) -> None:
    with client(demo, "ws/") as first, client(demo, "ws/") as second, client(demo, "ws/") as third:
        ana, bob, eve = Person(first), Person(second, "  B\u202eo\x00b  "), Person(third, "Eve", "kitchen")
        assert bob.joined["member"] == "Bob"
        ana.say("Hello <b>Bob</b> \U0001f600")
        for each in (ana, bob):
            said = each.hear("room.said")
            assert (said["name"], said["text"], said["id"]) == ("Ana", "Hello <b>Bob</b> \U0001f600", "1")
        eve.say("the first for the kitchen")
        assert eve.hear("room.said")["text"] == "the first for the kitchen"
    assert noise(demo) == ""


def test_a_newcomer_is_told_who_is_there_and_the_others_of_the_newcomer(demo: Server) -> None:
    with client(demo, "ws/") as first, client(demo, "ws/") as second, client(demo, "ws/") as third:
        ana, bob = Person(first, "Ana", "attic"), Person(second, "Bob", "attic")
        ana.see("joined", "Bob")
        eve = Person(third, "Eve", "attic")
        assert eve.people == {"Ana": 1, "Bob": 1, "Eve": 1}
        for each in (ana, bob):
            assert each.see("joined", "Eve") == 1
        ana.send({"type": "look"})
        ana.hear("worker.here")  # and nobody else is told that
        ana.say("after")
        for each in (bob, eve):
            told = [each.client.receive()]
            while told[-1]["type"] != "message":
                told.append(each.client.receive())
            assert told[-1]["message"]["text"] == "after"


def test_two_windows_are_one_person(demo: Server) -> None:
    with client(demo, "ws/") as first, client(demo, "ws/") as second:
        ana, _ = Person(first, "Ana", "cellar"), Person(second, "Bob", "cellar")
        ana.see("joined", "Bob")
        with client(demo, "ws/") as third:
            assert Person(third, "Bob", "cellar").people == {"Ana": 1, "Bob": 2}
            assert ana.see("updated", "Bob") == 2
        assert ana.see("updated", "Bob") == 1


def test_who_leaves_is_missed(demo: Server) -> None:
    with client(demo, "ws/") as first:
        ana = Person(first, "Ana", "porch")
        with client(demo, "ws/") as second:
            Person(second, "Bob", "porch")
            ana.see("joined", "Bob")
        ana.see("left", "Bob")


def test_who_leaves_while_being_told_something_is_missed_too(demo: Server) -> None:
    with client(demo, "ws/") as first:
        Person(first, room="terrace")
        for number in range(5):
            with client(demo, "ws/") as second:
                bob = Person(second, f"Bob {number}", "terrace")
                for _ in range(20):
                    bob.say("/help")
                    bob.send({"type": "look"})
        left = set[str]()
        while left != {f"Bob {number}" for number in range(5)}:
            left.add(first.receive_until(type="presence", event="left")["member"])
    assert noise(demo) == ""


def test_what_a_page_says_is_refused_with_words(demo: Server) -> None:
    with client(demo, "ws/") as first:
        ana = Person(first, "Ana", "library")
        first.send(type="message", message={"type": "look"})
        assert first.receive_until(type="error")["reason"] == "Join a room first."
        texts = [
            ({"type": "say", "id": str(number), "text": text}, why) for number, (text, why) in enumerate(REFUSED_TEXTS)
        ]
        for message, problem in [*REFUSED, *texts]:
            ana.send(message)
            error = first.receive_until(type="error")
            assert error["reason"].startswith(problem)
            assert error.get("id") == (message.get("id") if isinstance(message, dict) else None)
        ana.say("/help", "7")
        assert "/roll 2d6" in ana.hear("help", id="7")["text"]
        ana.say("still here")
        assert ana.hear("room.said")["text"] == "still here"
    assert noise(demo) == ""


def test_rooms_and_names_that_are_none(demo: Server) -> None:
    for name in ["", "x" * 33, "\x07", "\u200b", "\u3164\u200d\ufe0f", "\u0301", None]:
        with client(demo, "ws/") as eve:
            eve.send(type="hello", version=1, token=name)
            assert eve.receive()["code"] == "unauthorized"
    with client(demo, "ws/") as eve:
        eve.send(type="hello", version=1, token="Eve")
        for group in ["lobby", "room.", f"room.{'x' * 33}", "room.Lobby", "room.-", "chat-worker"]:
            eve.send(type="join", group=group)
            assert eve.receive_until(type="error")["code"] == "forbidden"


def test_hostile_frames_harm_nobody_else(demo: Server) -> None:
    with client(demo, "ws/") as first:
        ana = Person(first, "Ana", "garage")
        for frame in HOSTILE:
            with client(demo, "ws/") as eve:
                Person(eve, "Eve", "garage")
                eve.socket.send(frame)
                assert eve.receive_until(type="error")["code"] == "invalid"
                with pytest.raises(ConnectionClosed):
                    eve.receive_until(type="nothing more")
        ana.say("still here")
        assert ana.hear("room.said")["text"] == "still here"
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
