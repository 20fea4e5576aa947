"""``docs/guides/ready-frames.rst``: its samples run."""

from __future__ import annotations

from typing import Any, cast

import pytest
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer

from .pages import page

PAGE = page("docs/guides/ready-frames.rst")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class User:
    def __init__(self, *, is_authenticated: bool) -> None:
        self.is_authenticated = is_authenticated


@pytest.mark.anyio
@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer"}})
async def test_frames_are_sent_and_filtered() -> None:
    names: dict[str, Any] = {}
    for block in PAGE.blocks:
        exec(block.astext(), names)
    guest, member = User(is_authenticated=False), User(is_authenticated=True)
    clients = []
    for base, user in ((names["AsyncWebsocketConsumer"], guest), (names["Match"], member), (names["Match"], guest)):
        consumer: Any = type("InMatch", (base,), {"groups": ["match.7"]})
        client = WebsocketCommunicator(consumer.as_asgi(), "/")
        cast(dict[str, Any], client.scope)["user"] = user
        assert (await client.connect(30))[0]
        clients.append(client)
    layer = cast(AnyioChannelLayer, channel_layers["default"])
    await layer.broadcast("match.7", text="kick-off")
    await names["announce"](1)
    plain, filtered, refused = clients
    assert [await plain.receive_from(30) for _ in range(4)] == ["kick-off", '{"score": 1}', "half-time", b"\x00\x01"]
    assert [await filtered.receive_from(30) for _ in range(3)] == ["kick-off", '{"score": 1}', "half-time"]
    assert await refused.receive_nothing()
    for client in clients:
        await client.disconnect()
    await layer.close()
