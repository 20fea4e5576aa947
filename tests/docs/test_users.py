"""What docs/guides/users.rst shows works."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from django_anyio_channels import get_channel_layer
from django_anyio_channels.django.configuration.config import CLOSE_ON, read_config

from .pages import page

pytestmark = pytest.mark.anyio

PAGE = page("docs/guides/users.rst")
SECONDS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer"}})
async def test_a_user_is_reached() -> None:
    layer = get_channel_layer()
    user = SimpleNamespace(pk=7, is_authenticated=True)
    window = WebsocketCommunicator(PAGE.run("consumer")["NewsConsumer"].as_asgi(), "/")
    cast(Any, window.scope)["user"] = user
    assert await window.connect(timeout=SECONDS) == (True, None)
    await sync_to_async(PAGE.run("sending")["export_finished"])(user)
    assert await window.receive_json_from(SECONDS) == {"text": "Your export is ready"}
    await layer.user_close(user)
    assert await window.receive_output(SECONDS) == {"type": "websocket.close", "code": 4401}
    await layer.close()


def test_the_settings_are_accepted_and_all_events_documented() -> None:
    config = PAGE.run("settings")["CHANNEL_LAYERS"]["default"]["CONFIG"]
    assert read_config(config).close_on == CLOSE_ON
    assert tuple(PAGE.rows("events")) == CLOSE_ON
