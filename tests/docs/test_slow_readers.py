"""What docs/guides/slow-readers.rst shows and says works."""

from __future__ import annotations

import asyncio
from typing import Any

import docutils.nodes
import pytest
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer, get_channel_layer
from django_anyio_channels.django.configuration.config import read_config
from django_anyio_channels.django.messages.closing import TOO_SLOW
from django_anyio_channels.hub.overflow import POLICIES
from tests.support.paths import ROOT

from .pages import cells_of, parsed

PAGE = parsed((ROOT / "docs" / "guides" / "slow-readers.rst").read_text())
SECONDS = 20.0
CONFIG = {"capacity": 3, "overflow": {"prices.*": ("latest", "symbol"), "log.*": "drop_oldest", "chat.*": "close"}}


def block(name: str) -> str:
    [found] = [block for block in PAGE.findall(docutils.nodes.literal_block) if name in block["classes"]]
    return str(found.astext())


def run(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block(name), names)
    return names


def consumer(prefix: str) -> Any:
    """Return the page's consumer with another prefix, whose handler of ``hold`` waits for ``gate``."""

    class Consumer(run("consumer")["PriceConsumer"]):  # type: ignore[misc]
        channel_prefix = prefix

        async def hold(self, message: Any) -> None:
            holding.set()
            await gate.wait()

    gate, holding = Consumer.gate, Consumer.holding = asyncio.Event(), asyncio.Event()
    return Consumer


@pytest.mark.parametrize(
    ("prefix", "expected", "counted"),
    [
        ("specific", [{"a": 0}, {"b": 0}, {"a": 1}], {"dropped_capacity": 7}),
        ("prices", [{"a": 4}, {"b": 4}], {"replaced": 8}),
        ("log", [{"b": 3}, {"a": 4}, {"b": 4}], {"dropped_capacity": 7}),
    ],
)
@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer", "CONFIG": CONFIG}})
def test_a_consumer_that_was_slow_gets_what_its_policy_says(
    prefix: str, expected: list[Any], counted: dict[str, int]
) -> None:
    async def main() -> None:
        layer = get_channel_layer()
        kind = consumer(prefix)
        browser = WebsocketCommunicator(kind.as_asgi(), "/")
        assert await browser.connect(timeout=SECONDS) == (True, None)
        await flood(layer, kind)
        assert [await browser.receive_json_from(SECONDS) for _ in expected] == expected
        names = ("dropped_capacity", "dropped_bytes", "replaced", "closed_slow")
        assert {name: count for name in names if (count := layer.statistics()[name])} == counted
        await browser.disconnect()
        await layer.close()

    asyncio.run(main())


async def flood(layer: AnyioChannelLayer, kind: Any) -> None:
    """Keep a consumer from reading ten prices of two symbols."""
    await layer.group_send("prices", {"type": "hold"})
    await asyncio.wait_for(kind.holding.wait(), SECONDS)
    for number in range(5):
        for symbol in "ab":
            await layer.group_send("prices", {"type": "price", "symbol": symbol, "price": number})
    kind.gate.set()


@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer", "CONFIG": CONFIG}})
def test_a_websocket_is_closed_before_what_waits() -> None:
    async def main() -> None:
        layer = get_channel_layer()
        kind = consumer("chat")
        browser = WebsocketCommunicator(kind.as_asgi(), "/")
        assert await browser.connect(timeout=SECONDS) == (True, None)
        await flood(layer, kind)
        assert await browser.receive_output(SECONDS) == {"type": "websocket.close", "code": TOO_SLOW}
        assert layer.statistics()["closed_slow"] == 1
        assert TOO_SLOW == 4008
        await browser.wait(SECONDS)
        await layer.close()

    asyncio.run(main())


def test_in_a_resumed_group_the_order_is_kept() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer(url="memory://", options={"history_length": 100}, **CONFIG)
        for prefix, closes in (("prices", False), ("log", False), ("chat", True)):
            channel = await layer.new_channel(prefix)
            await layer.group_resume("room", channel)
            for number in range(5):
                await layer.group_send("room", {"type": "price", "symbol": "a", "price": number})
            if closes:
                assert (await layer.receive(channel))["code"] == TOO_SLOW
            assert [(await layer.receive(channel))["price"] for _ in range(3)] == [0, 1, 2]
            assert await layer.receive(channel) == {"type": "group.missed", "group": "room"}
            await layer.group_discard("room", channel)
            for number in range(5):
                await layer.send(channel, {"type": "price", "symbol": "a", "price": number})
            got = {"prices": [4], "log": [2, 3, 4], "chat": [TOO_SLOW, 0, 1, 2]}[prefix]
            found = [await layer.receive(channel) for _ in got]
            assert [message.get("price", message.get("code")) for message in found] == got
        await layer.close()

    asyncio.run(main())


def test_the_settings_are_accepted_and_all_policies_documented() -> None:
    settings = read_config(run("settings")["CHANNEL_LAYERS"]["default"]["CONFIG"])
    policies = [type(settings.overflow_of(f"{name}.x!y")).__name__ for name in ("prices", "log", "chat", "specific")]
    assert policies == ["Latest", "DropOldest", "Close", "NoneType"]
    [table] = [table for table in PAGE.findall(docutils.nodes.table) if "policies" in table["classes"]]
    assert tuple(name.strip('"') for name in cells_of(table)) == POLICIES
