"""``docs/guides/server-sent-events.rst``: its samples run."""

from __future__ import annotations

import inspect
import json
from contextlib import aclosing
from typing import Any, cast

import docutils.nodes
import pytest
from django.core.exceptions import PermissionDenied
from django.test import AsyncRequestFactory

from django_anyio_channels import AnyioChannelLayer, EventStreamResponse
from tests.django.browser.helpers import default_layer
from tests.django.helpers import soon
from tests.support.paths import ROOT

from .pages import cells_of, parsed

pytestmark = pytest.mark.anyio

PAGE = parsed((ROOT / "docs/guides/server-sent-events.rst").read_text())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class User:
    pk = 7

    def __init__(self, *, is_authenticated: bool) -> None:
        self.is_authenticated = is_authenticated


def code(name: str) -> Any:
    """The view of a sample."""
    [block] = [block for block in PAGE.findall(docutils.nodes.literal_block) if name in block["classes"]]
    names: dict[str, Any] = {}
    exec(block.astext(), names)
    return list(names.values())[-1]


def request(url: str = "/", *, is_authenticated: bool = True) -> Any:
    async def auser() -> User:
        return User(is_authenticated=is_authenticated)

    made: Any = AsyncRequestFactory().get(url)
    made.auser = auser
    return made


async def test_the_samples() -> None:
    async with default_layer(AnyioChannelLayer(options={"history_length": 10})) as layer:
        with pytest.raises(PermissionDenied):
            await code("view")(request(is_authenticated=False))
        await layer.group_send("chat", {"type": "chat.said", "text": "<b>"})
        await layer.group_send("public.news", {"type": "group.message", "message": "news"})
        htmx = await code("htmx")(request())
        assert (await found(htmx, b"event: chat")).endswith(b"\ndata: <li>&lt;b&gt;</li>\n\n")
        frames = await code("fallback")(request("/?group=secret&group=public.news&last=5"))
        news = await found(frames, b'"message"')
        assert json.loads(news.partition(b"data: ")[2])["message"] == "news"
        orders = await code("view")(request())
        assert b"id: orders=" in await found(orders, b",orders.7=")


async def found(response: Any, part: bytes) -> bytes:
    """The first chunk of a stream with this in it."""
    async with aclosing(cast(Any, response).__aiter__()) as chunks:
        while part not in (chunk := cast(bytes, await soon(anext(chunks)))):
            pass
    return chunk


async def test_the_arguments_are_documented_with_their_defaults() -> None:
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if "options" in table["classes"]]
    parameters = inspect.signature(EventStreamResponse).parameters
    documented = {name: default for name, (default, _) in cells_of(table).items()}
    keywords = [each for each in parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    assert documented == {each.name: str(each.default) for each in keywords}
