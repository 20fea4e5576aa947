"""``channels send``, ``group-send``, ``listen`` and ``flush``."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from django_anyio_channels.core.inspection import QueueState

from .conftest import Site, call, project, refused

MESSAGE = '{"type": "chat.message", "text": "hi"}'
DECODED = {"type": "chat.message", "text": "hi"}


def test_a_message_is_sent_to_a_channel(site: Site) -> None:
    name = site.new_member()
    assert call("send", name, MESSAGE) == f"Sent to the channel {name}.\n"
    assert site.run(lambda layer: layer.receive(name)) == DECODED
    assert json.loads(call("send", "jobs", MESSAGE, "--json")) == {"channel": "jobs"}
    assert site.run(lambda layer: layer.receive("jobs")) == DECODED


def test_a_message_is_sent_to_a_group_and_may_come_from_standard_input(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = site.new_member("room")
    monkeypatch.setattr("sys.stdin", io.StringIO(MESSAGE))
    assert call("group-send", "room", "-") == "Sent to the group room.\n"
    assert site.run(lambda layer: layer.receive(name)) == DECODED


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("send", "jobs", "{"), "The message is not JSON"),
        (("send", "jobs", "[" * 100_000), "The message is not JSON"),
        (("send", "jobs", "[]"), "must be a JSON object"),
        (("send", "jobs", "{}"), "message['type'] is missing"),
        (("send", "a b", MESSAGE), "Channel name must be"),
        (("group-send", "a/b", MESSAGE), "Group name must be"),
        (("send", "jobs", MESSAGE, "--alias", "other"), "CHANNEL_LAYERS['other'] is not set"),
        (("listen", "a/b"), "Group name must be"),
        (("listen", "room", "--last", "3"), "keeps no history"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(site: Site, words: tuple[str, ...], reason: str) -> None:
    assert reason in refused(*words)[0]


def test_a_full_channel_is_refused(site: Site) -> None:
    for _ in range(100):
        site.run(lambda layer: layer.send("jobs", {"type": "x"}))
    assert "Channel 'jobs' is full" in refused("send", "jobs", MESSAGE)[0]


def test_what_is_sent_to_a_group_is_printed(site: Site) -> None:
    async def send(layer: Any) -> None:
        while not stop.is_set():
            await layer.group_send("room", {"type": "x", "data": b"\x00\xff", "text": "\x1b[2J"})

    def keep_sending() -> None:
        site.run(send)

    message = {"type": "x", "data": "AP8=", "text": "\x1b[2J"}
    for words, line in (((), message), (("--json",), {"group": "room", "position": None, "message": message})):
        stop = threading.Event()
        sender = threading.Thread(target=keep_sending)
        sender.start()
        printed = call("listen", "room", "--count", "2", *words)
        stop.set()
        sender.join()
        assert "\x1b" not in printed
        assert [json.loads(each) for each in printed.splitlines()] == [line, line]


def test_listening_ends_after_a_time(site: Site) -> None:
    assert call("listen", "room", "--timeout", "0.05") == ""
    assert refused("listen", "room", "--timeout", "0.05", "--count", "1")[0] == "0 of 1 messages came within 0.05 s."


def test_flush_asks_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting() -> list[QueueState]:
        return [each for each in site.run(lambda layer: layer.queue_states()) if each.length]

    def end_of_file(question: str) -> str:
        raise EOFError

    site.run(lambda layer: layer.send("jobs", {"type": "x"}))
    for answer in (lambda question: "no", end_of_file):
        monkeypatch.setattr("builtins.input", answer)
        assert refused("flush")[0] == "Nothing was dropped."
    assert waiting()
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    assert call("flush") == "All messages and memberships were dropped.\n"
    assert not waiting()
    site.run(lambda layer: layer.send("jobs", {"type": "x"}))
    assert json.loads(call("flush", "--no-input", "--json")) == {"brokers": ["memory://"]}
    assert not waiting()


def test_the_alias_is_the_default_one_without_an_option(config: dict[str, Any]) -> None:
    with project(other=config):
        assert "CHANNEL_LAYERS['default'] is not set" in refused("send", "jobs", MESSAGE)[0]
        assert call("send", "jobs", MESSAGE, "--alias", "other") == "Sent to the channel jobs.\n"
