"""The parts of the demo chat by themselves: names, its command, its debug pages, and what it says of outages."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_anyio_channels import AnyioChannelLayer, DeliveryUnknown, ListenerClosed
from tests.django.browser.helpers import client as browsing
from tests.django.browser.helpers import default_layer
from tests.support.paths import ROOT

FOLDER = ROOT / "testproject"
MANAGE = str(FOLDER / "manage.py")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("A\u200bn\u2060a\ufeff", "Ana"),
        ("Ana\u200d\ufe0f", "Ana"),
        ("\u3164Ana\u2800", "Ana"),
        ("A\u00adna \U000e0041", "Ana"),
        ("\u202eAna\u2069\x00", "Ana"),
        ("  Ana \t B\n", "Ana B"),
        ("Ame\u0301lie", "Am\u00e9lie"),
        ("\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627"),
        ("\U0001f469\u200d\U0001f4bb \u2764\ufe0f", "\U0001f469\u200d\U0001f4bb \u2764\ufe0f"),
    ],
)
def test_names_that_look_the_same_are_the_same(typed: str, name: str) -> None:
    from chat.protocol import name_of

    assert name_of(typed) == name


class HalfLayer(AnyioChannelLayer):
    """Fails with a secret in its error when it sends to a group."""

    error: type[ListenerClosed]

    async def group_send(self, *arguments: Any, **options: Any) -> Any:
        raise self.error("redis://:secret@10.0.0.1 is away: SELECT 1")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ListenerClosed, "Message not sent. Try again in a moment."),
        (DeliveryUnknown, "The connection broke. Your message may not have been sent."),
    ],
)
async def test_who_speaks_while_the_broker_is_away_is_told_so_but_nothing_more(
    caplog: pytest.LogCaptureFixture, error: type[ListenerClosed], words: str
) -> None:
    from chat.consumers import ChatConsumer

    layer = HalfLayer(url="memory://", presence_grace=0)
    layer.error = error
    async with default_layer(layer), browsing(ChatConsumer, hello=False) as ana:
        await ana.ask("hello", version=1, token="Ana")
        assert (await ana.ask("join", group="room.lobby"))["member"] == "Ana"
        await ana.send("message", group="room.lobby", message={"type": "say", "id": "7", "text": "hello"})
        refused = [await ana.receive()]
        while refused[-1].get("frame") is not None or refused[-1]["type"] != "error":
            refused.append(await ana.receive())
        assert [(each["code"], each["reason"], each["id"]) for each in refused if "id" in each] == [
            ("not_sent", words, "7")
        ]
        assert refused[-1]["code"] == "unavailable"
        assert await ana.closed() == 4013
    assert "secret" in caplog.text
    assert "secret" not in json.dumps(refused)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_that_takes_no_more_counts_as_away() -> None:
    from chat.consumers import ChatConsumer

    layer = AnyioChannelLayer(channel_capacity={"chat-worker": 1})
    async with default_layer(layer), browsing(ChatConsumer, hello=False) as ana:
        await ana.ask("hello", version=1, token="Ana")
        await ana.ask("join", group="room.lobby")
        for _ in range(2):
            await ana.send("message", group="room.lobby", message={"type": "look"})
        while (frame := await ana.receive())["type"] != "message":
            pass
        assert frame["message"] == {"type": "worker.away"}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], ["-m", "stage.supervisor"]),
        (["0.0.0.0:8000"], [MANAGE, "runserver", "0.0.0.0:8000"]),
        (["8001", "--noreload"], [MANAGE, "runserver", "8001", "--noreload"]),
        (["--help"], [MANAGE, "runserver", "--help"]),
        (["runworker", "chat-worker"], [MANAGE, "runworker", "chat-worker"]),
        (["check"], [MANAGE, "check"]),
    ],
)
def test_the_command_is_the_stage_or_manage_py_in_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], command: list[str]
) -> None:
    ran: list[tuple[Any, ...]] = []
    bootstrap = SimpleNamespace(
        ROOT=ROOT, environment=lambda group: f"python of {group}", run=lambda *all: ran.append(all)
    )
    monkeypatch.setitem(sys.modules, "bootstrap", bootstrap)
    monkeypatch.setattr(sys, "argv", ["testproject", *arguments])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    runpy.run_path(str(FOLDER), run_name="__main__")
    assert ran == [("python of demo", *command)]


def test_the_page_names_a_command_that_starts_a_worker() -> None:
    shown = (FOLDER / "chat" / "templates" / "chat" / "room.html").read_text()
    assert "<code>python3 testproject runworker {{ worker }}</code>" in shown


def get(host: str, **variables: str) -> str:
    """What the demo answers to a request with this Host header, with nothing but these settings."""
    program = (
        "import django; django.setup()\n"
        "from django.test import Client\n"
        f"answer = Client(raise_request_exception=False).get('/room/lobby/', headers={{'host': {host!r}}})\n"
        "print(answer.status_code, answer.content.decode())"
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("ALLOWED_HOSTS", "DEBUG", "DATABASE")}
    environ |= {"DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": os.pathsep.join([str(ROOT), str(FOLDER)])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environ, "CHANNEL_LAYER_URL": "redis://ann:s3cret@broker.example:6379/0", **variables},
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("variables", [{}, {"DEBUG": "1", "ALLOWED_HOSTS": "chat.example"}])
def test_debug_pages_show_nobody_the_broker(variables: dict[str, str]) -> None:
    page = get("evil.example", **variables)
    assert page.startswith("400 ")
    assert "DisallowedHost" in page
    assert "EMBEDDED_WORKER" in page  # it has the settings
    assert "s3cret" not in page
    assert "broker.example" not in page


def test_who_opens_the_chat_to_others_turns_the_debug_pages_off() -> None:
    assert get("chat.example", ALLOWED_HOSTS="localhost, chat.example").startswith("200 ")
    assert "EMBEDDED_WORKER" not in get("evil.example", ALLOWED_HOSTS="localhost, chat.example")
