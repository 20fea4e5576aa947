"""What docs/guides/sending.rst shows works: a view's message reaches all but the browser that made the request."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import docutils.nodes
import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.test import RequestFactory, override_settings
from django.utils.module_loading import import_string

from django_anyio_channels import AnyioChannelLayer, get_channel_layer
from tests.support.paths import ROOT

from .test_readme import parsed

pytestmark = pytest.mark.anyio

PAGE = parsed((ROOT / "docs" / "guides" / "sending.rst").read_text())
SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def layer() -> Iterator[AnyioChannelLayer]:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer"}}):
        yield get_channel_layer()


def run(name: str) -> dict[str, Any]:
    [block] = [block for block in PAGE.findall(docutils.nodes.literal_block) if name in block["classes"]]
    found: dict[str, Any] = {}
    exec(block.astext(), found)
    return found


async def test_a_view_excludes_the_browser_that_calls_it(layer: AnyioChannelLayer) -> None:
    consumer, rename = run("consumer")["RoomConsumer"], run("view")["rename"]
    middleware = import_string(run("middleware")["MIDDLEWARE"][-1])(rename)
    windows, tokens = [], []
    for key in ("mine", "yours"):
        window = WebsocketCommunicator(consumer.as_asgi(), "/")
        cast(Any, window.scope)["session"] = SimpleNamespace(session_key=key)
        assert await window.connect(timeout=SECONDS) == (True, None)
        windows.append(window)
        tokens.append((await window.receive_json_from(SECONDS))["token"])

    def call(title: str, header: str) -> None:
        request = RequestFactory().post("/rename", {"title": title}, headers={"X-Channel-Name": header})
        cast(Any, request).session = SimpleNamespace(session_key="mine")
        assert middleware(request).status_code == 204

    for title, header in (("one", tokens[0]), ("two", tokens[1]), ("three", "forged")):
        await sync_to_async(call)(title, header)
    mine, yours = [
        [(await each.receive_json_from(SECONDS))["title"] for _ in range(n)]
        for each, n in zip(windows, (2, 3), strict=True)
    ]
    assert (mine, yours) == (["two", "three"], ["one", "two", "three"])
    for window in windows:
        await window.disconnect(timeout=SECONDS)
    await layer.close()
