"""What docs/guides/presence.rst says is what the sources do; its samples run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from django_anyio_channels import AnyioChannelLayer, GroupCount
from django_anyio_channels.django.presence import members, records, timing
from django_anyio_channels.django.settings import Settings

from .pages import page

pytestmark = pytest.mark.anyio

PAGE = page("docs/guides/presence.rst")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def layer() -> AsyncIterator[AnyioChannelLayer]:
    made = AnyioChannelLayer(url="memory://", presence_grace=0.05)
    former = channel_layers.set("default", made)
    yield made
    channel_layers.set("default", former)  # type: ignore[arg-type]
    await made.close()


async def test_the_calls(layer: AnyioChannelLayer) -> None:
    lines = "\n    ".join(PAGE.code("layer").splitlines())
    found: dict[str, Any] = {}
    exec(f"async def sample(layer, channel):\n    {lines}\n    return members, count", found)
    here, count = await found["sample"](layer, await layer.new_channel())
    assert here["42"].metas == [{"name": "Ana"}]
    assert count == GroupCount(channels=1, members=1)


async def test_the_consumer(layer: AnyioChannelLayer) -> None:
    room = PAGE.run("consumer")["Room"]

    async def window(number: int, name: str) -> Any:
        opened = WebsocketCommunicator(room.as_asgi(), "/")
        scope: Any = opened.scope
        scope["user"] = SimpleNamespace(pk=number, username=name)
        assert (await opened.connect(timeout=10))[0]
        return opened

    ana = await window(42, "Ana")
    assert await ana.receive_json_from(timeout=10) == {"type": "here", "members": {"42": "Ana"}}
    assert await ana.receive_json_from(timeout=10) == {"type": "joined", "member": "42", "name": "Ana"}
    bob = await window(7, "Bob")
    assert await bob.receive_json_from(timeout=10) == {"type": "here", "members": {"42": "Ana", "7": "Bob"}}
    assert await ana.receive_json_from(timeout=10) == {"type": "joined", "member": "7", "name": "Bob"}
    await bob.send_json_to({"name": "Rob"})
    assert await ana.receive_json_from(timeout=10) == {"type": "renamed", "member": "7", "name": "Rob"}
    await bob.disconnect(timeout=10)
    assert await ana.receive_json_from(timeout=10) == {"type": "left", "member": "7"}
    await ana.disconnect(timeout=10)


def test_the_numbers() -> None:
    words = " ".join(PAGE.text.split())
    for text in (
        f"up to {records.LONGEST_MEMBER} characters",
        f"up to {records.LARGEST_META:,} bytes",
        f"{Settings.presence_grace:g} seconds by default",
        f"every {timing.INTERVAL:g} seconds",
        f"more than {timing.LIFETIME:g} seconds counts as gone",
        f"up to {members.PART_SIZE} members",
    ):
        assert text in words, text
    assert records.RECORD_SECONDS == 3600
