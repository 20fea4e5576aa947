"""``docs/guides/browser-client.rst`` and ``docs/reference/protocol.rst``: their samples run, their tables are true."""

from __future__ import annotations

import re
import typing
from typing import Any, cast

import docutils.nodes
import msgspec
import pytest
from asgiref.sync import sync_to_async
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer, ResumableConsumer, SyncResumableConsumer
from django_anyio_channels.django.browser import frames
from tests.django.browser.helpers import PATIENCE, Client
from tests.support.paths import ROOT

from .pages import cells_of, parsed

GUIDE = parsed((ROOT / "docs/guides/browser-client.rst").read_text())
PROTOCOL = parsed((ROOT / "docs/reference/protocol.rst").read_text())
PACKAGE = ROOT / "django_anyio_channels"
SCRIPT = (PACKAGE / "static/anyio_channels/client.js").read_text()
TYPES = (PACKAGE / "static/anyio_channels/client.d.ts").read_text()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def code(name: str) -> str:
    [block] = [block for block in GUIDE.findall(docutils.nodes.literal_block) if name in block["classes"]]
    return block.astext()


def rows(page: docutils.nodes.document, name: str) -> dict[str, list[str]]:
    [table] = [table for table in page.findall(docutils.nodes.table) if name in table["classes"]]
    return cells_of(table)


class User:
    pk = 7
    is_authenticated = True

    def get_username(self) -> str:
        return "ana"


@pytest.mark.anyio
@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer"}})
async def test_the_samples_serve_a_client() -> None:
    names: dict[str, Any] = {}
    exec(code("consumer"), names)
    exec(code("view"), names)
    names["AuthMiddlewareStack"] = lambda sockets: sockets  # which needs models
    imported = r"^from (channels\.auth|chat\.consumers) import .*\n"
    exec(re.sub(imported, "", code("routing"), flags=re.MULTILINE), names)
    assert "websocket" in names["application"].application_mapping
    socket = WebsocketCommunicator(names["RoomConsumer"].as_asgi(), "/")
    cast(dict[str, Any], socket.scope)["user"] = User()
    assert (await socket.connect(PATIENCE))[0]
    client = Client(socket)
    await client.ask("hello", version=1)
    assert (await client.ask("join", group="vault"))["code"] == "forbidden"
    assert (await client.ask("join", group="room.7"))["members"] == {"7": [{"name": "ana"}]}
    await sync_to_async(names["publish"])("room.7", "hello")
    await client.send("message", group="room.7", message={"text": "hi"})
    got: list[Any] = []
    while len(got) < 2:
        frame = await client.receive()
        got += [frame["message"]] if frame["type"] == "message" else []
    assert {"text": "hello"} in got
    assert {"text": "hi", "by": "ana"} in got
    await socket.disconnect(timeout=PATIENCE)
    await cast(AnyioChannelLayer, channel_layers["default"]).close()


def test_the_page_uses_what_the_script_has() -> None:
    page = code("page")
    for name in (*re.findall(r"link\.(\w+)\(", page), "leave", "send", "close"):
        assert re.search(rf"^  {name}\(", SCRIPT, re.MULTILINE) or name == "addEventListener"
    events = set(re.findall(r"^  (\w+): CustomEvent", TYPES, re.MULTILINE))
    assert set(rows(GUIDE, "events")) == events - {"hello"}
    terms = [term.astext().partition("(")[0] for term in GUIDE.findall(docutils.nodes.term)]
    assert terms == ["connect", "join", "leave", "send", "reconnect", "close"]


def test_the_methods_and_limits_are_documented_with_their_defaults() -> None:
    for consumer in (ResumableConsumer, SyncResumableConsumer):
        for name, (default, _) in rows(GUIDE, "limits").items():
            assert getattr(consumer, name) == int(default)
        for name in rows(GUIDE, "methods"):
            assert callable(getattr(consumer, name.partition("(")[0]))
    limits = [name for name in vars(ResumableConsumer.__mro__[1]) if name[0] != "_"]
    assert list(rows(GUIDE, "limits")) == limits


def test_the_frames_are_documented() -> None:
    structs = typing.get_args(frames.decode.__self__.type)  # type: ignore[attr-defined]
    documented = rows(PROTOCOL, "client")
    assert list(documented) == [struct.__struct_config__.tag for struct in structs]
    for struct in structs:
        fields = documented[struct.__struct_config__.tag][0]
        for field in msgspec.structs.fields(struct):
            assert field.name in fields
    source = "".join((PACKAGE / f"django/browser/{name}.py").read_text() for name in ("conversation", "frames"))
    sent = set(re.findall(r'(?:_send|encode)\(\s*"(\w+)"', source))
    assert set(rows(PROTOCOL, "server")) == sent
    codes = set(re.findall(r'(?:_refuse\(\w+, |error\("\w+", )"(\w+)"', source)) | {"not_supported"}
    assert set(rows(PROTOCOL, "errors")) == codes


def test_the_times_are_those_of_the_script() -> None:
    text = PROTOCOL.astext()
    times = {"FIRST": "window of {} seconds", "LONGEST": "up to {} seconds", "IDLE": "nothing for {} seconds"}
    for name, unit in times.items():
        found = re.search(rf"{name} = ([\d_]+)", SCRIPT)
        assert found is not None
        assert unit.format(int(found[1]) // 1000) in text.replace("\n", " ")
