"""`django.layer`: Channels' own exceptions, and errors that say what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import channel_layers
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer, InMemoryChannelLayer, PayloadTooLarge, PublishResult
from django_anyio_channels.django.settings import ConfigError
from tests.support.programs import failing


class Narrow(InMemoryChannelLayer):
    """A broker with a limit of its own."""

    def publish_blocking(self, group: str, message: bytes) -> PublishResult:
        raise PayloadTooLarge("this broker takes 10 bytes")


def test_the_brokers_limit_raises_channels_exception() -> None:
    with pytest.raises(MessageTooLarge, match="this broker takes 10 bytes"):
        AnyioChannelLayer(layer=Narrow).group_send_sync("g", {"type": "x"})


def test_a_full_channel_is_named_with_the_cure() -> None:
    layer = AnyioChannelLayer(channel_capacity={"job*": 3}, prefix="a:b")
    for _ in range(3):
        layer.send_sync("jobs", {"type": "x"})
    with pytest.raises(ChannelFull) as caught:
        layer.send_sync("jobs", {"type": "x"})
    assert str(caught.value) == (
        "Channel 'jobs' is full (capacity 3). Run more workers, or raise 'capacity' or 'channel_capacity' in CONFIG"
    )


@pytest.mark.parametrize(
    ("name", "shown"), [("a room", "'a room'"), ("", "''"), (7, "int"), (200 * "x", f"'{100 * 'x'}'")]
)
def test_a_wrong_name_is_shown(name: Any, shown: str) -> None:
    layer = AnyioChannelLayer()
    with pytest.raises(TypeError, match=f"^Group name must be a valid .* or periods, not {shown}$"):
        layer.group_send_sync(name, {"type": "x"})
    with pytest.raises(TypeError, match=f"^Channel name must be a valid .* or periods, not {shown}$"):
        layer.send_sync(name, {"type": "x"})


@pytest.mark.parametrize("path", ["django_anyio_channels.AnyioChannelLayer", None])
def test_settings_beside_config_are_refused_without_system_checks(path: str | None) -> None:
    """Servers run none, and the layer would be in memory."""
    layers = {"default": {"BACKEND": path or "other.Layer", "URL": "redis://h"}}
    with override_settings(CHANNEL_LAYERS=layers):
        if path is None:
            AnyioChannelLayer()
            return
        with pytest.raises(ConfigError) as caught:
            channel_layers["default"]
    assert caught.value.code == "E007"
    assert "CHANNEL_LAYERS['default'] has the key 'URL', which Channels ignores." in caught.value.message
    assert "Did you mean 'url'?" in caught.value.hint


def test_receiving_on_a_channel_of_another_process_is_an_error() -> None:
    async def main() -> None:
        layer = AnyioChannelLayer()
        other = await AnyioChannelLayer().new_channel()
        await layer.new_channel()
        with pytest.raises(ValueError, match=r"Cannot receive on 'specific\..*has ended"):
            await layer.receive(other)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("missing", "name", "sentence"),
    [
        ("channels", "AnyioChannelLayer", "AnyioChannelLayer needs Django and Channels"),
        ("asgiref.sync", "ResumingMixin", "The mixins for consumers need Django and Channels"),
    ],
)
@pytest.mark.usefixtures("measured_programs")
def test_without_channels_one_sentence_names_the_extra(missing: str, name: str, sentence: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from django_anyio_channels import {name}"
    assert failing(program).endswith(f"MissingDriver: {sentence}: pip install django-anyio-channels[django]")
