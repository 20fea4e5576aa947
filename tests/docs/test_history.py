"""What docs/history.rst says is what the sources do; its consumer serves a browser that comes back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, cast

import docutils.nodes
import pytest
from channels.layers import BaseChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import AnyioChannelLayer, InMemoryChannelLayer, RedisStreamsChannelLayer, Resumption
from django_anyio_channels.core.options import HISTORY_OPTIONS
from tests.support.brokers import redis as brokers
from tests.support.paths import ROOT

from .test_readme import parsed

pytestmark = pytest.mark.anyio

PAGE = parsed((ROOT / "docs" / "history.rst").read_text())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["redis", "memory"])
def config(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The CONFIG of the page, for a server of the test's own, and its options in memory."""
    server = brokers.plain("redis")
    found: dict[str, Any] = {}
    exec(code("settings"), found)
    config: dict[str, Any] = found["CHANNEL_LAYERS"]["default"]["CONFIG"]
    assert config["url"] == "redis+streams://localhost:6379/0"
    if request.param == "memory":
        yield {"options": config["options"]}
        return
    with brokers.running(server):
        yield {**config, "url": brokers.with_streams(server.url)}


def code(name: str) -> str:
    [block] = [block for block in PAGE.findall(docutils.nodes.literal_block) if name in block["classes"]]
    return block.astext()


def test_the_options_are_documented_with_their_defaults() -> None:
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if "options" in table["classes"]]
    [body] = table.findall(docutils.nodes.tbody)
    rows = [[cell.astext() for cell in row.findall(docutils.nodes.entry)] for row in body.findall(docutils.nodes.row)]
    parameters = inspect.signature(RedisStreamsChannelLayer).parameters
    documented = [(name, default) for name, default, _ in rows]
    assert documented == [(name, str(parameters[name].default)) for name in HISTORY_OPTIONS]
    in_memory = inspect.signature(InMemoryChannelLayer).parameters
    assert "In memory the default is 0" in rows[0][2]
    assert [(name, str(in_memory[name].default)) for name in HISTORY_OPTIONS] == [
        ("history_length", "0"),
        *documented[1:],
    ]


def test_the_fields_of_a_resumption_are_documented() -> None:
    documented = [term.astext() for term in PAGE.findall(docutils.nodes.term)]
    assert sorted(documented) == sorted(Resumption.__dataclass_fields__)


async def test_the_consumer_serves_a_browser_that_comes_back(config: dict[str, Any]) -> None:
    layer = AnyioChannelLayer(**config)
    before = channel_layers.set("default", layer)
    found: dict[str, Any] = {}
    exec(code("consumer"), found)
    position = None
    for expected in (["one"], ["two", "three"]):
        browser = WebsocketCommunicator(found["RoomConsumer"].as_asgi(), "/")
        assert await browser.connect(timeout=20) == (True, None)
        await browser.send_json_to({"type": "hello", "since": position})
        hello = await browser.receive_json_from(timeout=20)
        assert hello["complete"]
        position = hello["position"]
        if expected == ["one"]:
            await browser.send_json_to({"type": "say", "text": "one"})
        received = [await browser.receive_json_from(timeout=20) for _ in expected]
        assert [frame["text"] for frame in received] == expected
        position = received[-1]["position"]
        await browser.disconnect(timeout=20)
        for text in ("two", "three"):
            await layer.group_send("room", {"type": "room.said", "text": text})
    channel_layers.set("default", cast(BaseChannelLayer, before))
    await layer.close()
