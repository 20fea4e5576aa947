"""What docs/guides/history.rst says is what the sources do; its consumer serves a browser that comes back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, cast

import docutils.nodes
import pytest
from channels.layers import BaseChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import AnyioChannelLayer, RedisStreamsChannelLayer, Resumption
from tests.support.brokers import redis as brokers

from .pages import page

pytestmark = pytest.mark.anyio

PAGE = page("docs/guides/history.rst")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def config() -> Iterator[dict[str, Any]]:
    """The CONFIG of the page, for a server of the test's own."""
    server = brokers.plain("redis")
    config: dict[str, Any] = PAGE.run("settings")["CHANNEL_LAYERS"]["default"]["CONFIG"]
    assert config["url"] == "redis+streams://localhost:6379/0"
    with brokers.running(server):
        yield {**config, "url": brokers.with_streams(server.url)}


def test_the_options_are_documented_with_their_defaults() -> None:
    parameters = inspect.signature(RedisStreamsChannelLayer).parameters
    documented = {name: default for name, (default, _) in PAGE.rows("options").items()}
    names = ("history_length", "history_age", "history_bytes")
    assert documented == {name: str(parameters[name].default) for name in names}


def test_the_fields_of_a_resumption_are_documented() -> None:
    documented = [term.astext() for term in PAGE.document.findall(docutils.nodes.term)]
    assert sorted(documented) == sorted(Resumption.__dataclass_fields__)


async def test_the_consumer_serves_a_browser_that_comes_back(config: dict[str, Any]) -> None:
    layer = AnyioChannelLayer(**config)
    before = channel_layers.set("default", layer)
    consumer = PAGE.run("consumer")["RoomConsumer"]
    position = None
    for expected in (["one"], ["two", "three"]):
        browser = WebsocketCommunicator(consumer.as_asgi(), "/")
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
