"""The parts of the demo chat by themselves: names, its command, its debug pages, and a join that fails halfway."""

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

from django_anyio_channels import AnyioChannelLayer, ListenerClosed
from tests.support.paths import ROOT

FOLDER = ROOT / "testproject"


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
    from chat.protocol import Join, read

    assert read(json.dumps({"type": "join", "room": "lobby", "name": typed})) == Join("lobby", name, None)


class HalfLayer(AnyioChannelLayer):
    """Fails with a secret in its error where a join has done its first half."""

    async def group_resume(self, *arguments: Any, **options: Any) -> str | None:
        raise ListenerClosed("redis://:secret@10.0.0.1 is away: SELECT 1")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_join_that_fails_leaves_nothing_in_the_room_and_shows_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from chat.consumers import COME_BACK, ChatConsumer

    layer = HalfLayer(url="memory://")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    consumer = ChatConsumer()
    consumer.channel_layer, consumer.channel_name, consumer.base_send = layer, await layer.new_channel(), send
    await consumer.connect()
    await consumer.receive(json.dumps({"type": "join", "room": "lobby", "name": "Ana"}))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == COME_BACK
    assert "secret" in caplog.text
    await layer.group_send("room.lobby", {"type": "room.here"})
    assert await layer.group_members("room.lobby") == {}
    await layer.send(consumer.channel_name, {"type": "the only message"})
    assert (await layer.receive(consumer.channel_name))["type"] == "the only message"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], ["runserver"]),
        (["0.0.0.0:8000"], ["runserver", "0.0.0.0:8000"]),
        (["8001", "--noreload"], ["runserver", "8001", "--noreload"]),
        (["--help"], ["runserver", "--help"]),
        (["runworker", "chat-worker"], ["runworker", "chat-worker"]),
        (["check"], ["check"]),
    ],
)
def test_the_command_is_manage_py_in_its_own_environment(
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
    runpy.run_path(str(FOLDER), run_name="__main__")
    assert ran == [("python of demo", str(FOLDER / "manage.py"), *command)]


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
