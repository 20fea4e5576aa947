"""What docs/guides/sending.rst shows works: a view's message reaches all but the browser that made the request."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.test import RequestFactory, override_settings
from django.utils.module_loading import import_string

from django_anyio_channels import AnyioChannelLayer, get_channel_layer

from .pages import page

pytestmark = pytest.mark.anyio

PAGE = page("docs/guides/sending.rst")
SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def layer() -> Iterator[AnyioChannelLayer]:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer"}}):
        yield get_channel_layer()


async def test_a_view_excludes_the_browser_that_calls_it(layer: AnyioChannelLayer) -> None:
    consumer, rename = PAGE.run("consumer")["RoomConsumer"], PAGE.run("view")["rename"]
    middleware = import_string(PAGE.run("middleware")["MIDDLEWARE"][-1])(rename)
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
