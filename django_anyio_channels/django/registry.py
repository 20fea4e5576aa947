"""`get_channel_layer`, typed."""

from __future__ import annotations

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers

from .layer import AnyioChannelLayer
from .settings import ConfigError


def get_channel_layer(alias: str = DEFAULT_CHANNEL_LAYER) -> AnyioChannelLayer:
    """Return the layer of an alias of ``CHANNEL_LAYERS``: what Channels' ``get_channel_layer`` returns, with its type.

    Raises `ConfigError` if there is none, or if it is another package's.
    """
    layer = channel_layers[alias] if alias in channel_layers.configs else None
    if isinstance(layer, AnyioChannelLayer):
        return layer
    backend = f"{AnyioChannelLayer.__module__.partition('.')[0]}.{AnyioChannelLayer.__name__}"
    found = "is not set" if layer is None else f"is a {type(layer).__name__}"
    raise ConfigError(f"CHANNEL_LAYERS[{alias!r}] {found}.", hint=f"Set its BACKEND to {backend!r}.", code="E006")
