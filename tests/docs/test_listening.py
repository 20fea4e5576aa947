"""What docs/guides/listening.rst shows works."""

from __future__ import annotations

import asyncio
import textwrap
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import docutils.nodes
from django.test import override_settings
from django.test.client import AsyncRequestFactory

from django_anyio_channels import AnyioChannelLayer, get_channel_layer
from tests.support.paths import ROOT

from .pages import parsed

PAGE = parsed((ROOT / "docs" / "guides" / "listening.rst").read_text())
SECONDS = 20.0
HISTORY = {"options": {"history_length": 100}}
LAYERS = {"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer", "CONFIG": HISTORY}}


def run(name: str, **names: Any) -> dict[str, Any]:
    [block] = [block for block in PAGE.findall(docutils.nodes.literal_block) if name in block["classes"]]
    text = block.astext()
    if text.startswith("async with"):
        text = "async def run():\n" + textwrap.indent(text, "    ")
    exec(text, names)
    return names


@override_settings(CHANNEL_LAYERS=LAYERS)
def test_a_view_streams_what_is_sent_to_a_group() -> None:
    async def main() -> None:
        layer = get_channel_layer()
        response = await run("view")["orders"](AsyncRequestFactory().get("/orders"))
        stream = aiter(response)
        assert await asyncio.wait_for(anext(stream), SECONDS) == b": listening\n\n"
        await layer.group_send("orders", {"type": "order", "n": 1})
        [event] = await layer.group_history("orders")
        expected = f'id: {event.position}\ndata: {{"type": "order", "n": 1}}\n\n'
        assert await asyncio.wait_for(anext(stream), SECONDS) == expected.encode()
        await stream.aclose()
        await layer.close()

    asyncio.run(main())


def test_a_pattern_finds_the_groups() -> None:
    async def main() -> None:
        layer, printed = AnyioChannelLayer(), StringIO()
        with redirect_stdout(printed):
            task = asyncio.create_task(run("pattern", layer=layer)["run"]())
            while layer.statistics()["topics"] != 3:
                await asyncio.sleep(0.001)
            await layer.group_send("room.1", {"type": "x"})
            await layer.group_send("other", {"type": "x"})
            await layer.close()
            await asyncio.wait_for(task, SECONDS)
        assert printed.getvalue() == "room.1 {'type': 'x'}\n"

    asyncio.run(main())


def test_a_slow_listener_goes_on_where_it_ended() -> None:
    async def main() -> None:
        layer, handled = AnyioChannelLayer(**HISTORY, capacity=2), list[int]()

        async def handle(message: dict[str, Any]) -> None:
            handled.append(message["n"])
            if message["n"] == 1:  # while this is handled come more than the listener holds
                for number in range(2, 12):
                    await layer.group_send("orders", {"type": "order", "n": number})
            if message["n"] == 11:
                await layer.close()

        for number in range(2):
            await layer.group_send("orders", {"type": "order", "n": number})
        [first, _] = await layer.group_history("orders")
        await asyncio.wait_for(run("since")["follow"](layer, first.position, handle), SECONDS)
        assert handled == list(range(1, 12))

    asyncio.run(main())
