"""`get_channel_layer`: the layer of an alias, with its type."""

from __future__ import annotations

from typing import assert_type

import pytest
from channels.layers import get_channel_layer as untyped
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer, get_channel_layer
from django_anyio_channels.django.settings import ConfigError

LAYERS = {
    "default": {"BACKEND": "django_anyio_channels.AnyioChannelLayer"},
    "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}


@override_settings(CHANNEL_LAYERS=LAYERS)
def test_it_is_channels_own_layer_with_its_type() -> None:
    layer = assert_type(get_channel_layer(), AnyioChannelLayer)
    assert layer is untyped()
    assert get_channel_layer("default") is layer
    get_channel_layer().group_send_sync("room", {"type": "chat.message"})  # mypy looks at this, too


@override_settings(CHANNEL_LAYERS=LAYERS)
@pytest.mark.parametrize(("alias", "reason"), [("other", "is a InMemoryChannelLayer"), ("none", "is not set")])
def test_another_layer_is_an_error_with_the_cure(alias: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_channel_layer(alias)
    assert caught.value.message == f"CHANNEL_LAYERS[{alias!r}] {reason}."
    assert caught.value.hint == "Set its BACKEND to 'django_anyio_channels.AnyioChannelLayer'."
