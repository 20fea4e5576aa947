"""docs/guides/graceful-ends.rst is complete; tests/asgi/test_graceful.py tests what it promises."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import docutils.nodes
import pytest
from channels.testing import WebsocketCommunicator
from django.urls import path

from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.process.graceful import Graceful
from tests.asgi.test_graceful import COMMANDS
from tests.support.paths import ROOT

from .pages import cells_of, parsed

pytestmark = pytest.mark.anyio

PAGE = parsed((ROOT / "docs" / "guides" / "graceful-ends.rst").read_text())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_application_serves_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hello(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    routing: Any = ModuleType("chat.routing")
    routing.websocket_urlpatterns = [path("", hello)]  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "chat", ModuleType("chat"))
    monkeypatch.setitem(sys.modules, "chat.routing", routing)
    monkeypatch.setattr("django.core.asgi.get_asgi_application", lambda: hello)  # would set Django up for all tests
    [block] = [block for block in PAGE.findall(docutils.nodes.literal_block) if "asgi" in block["classes"]]
    names: dict[str, Any] = {}
    exec(block.astext(), names)
    application = names["application"]
    assert isinstance(application, Graceful)
    assert await WebsocketCommunicator(application, "/").connect(20) == (True, None)


def test_every_server_and_the_default_are_documented() -> None:
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if "servers" in table["classes"]]
    assert {name.lower() for name in cells_of(table)} == {name.split()[0] for name in COMMANDS}
    assert read_config({}).drain_seconds == 20
