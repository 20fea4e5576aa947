"""`get_channel_layer`, typed."""

from __future__ import annotations

from .layer import AnyioChannelLayer  # before Channels: its error names the extra

# isort: split
from channels.layers import channel_layers

from .settings import ConfigError


def get_channel_layer(alias: str = "default") -> AnyioChannelLayer:
    """Return the layer of an alias of ``CHANNEL_LAYERS``: what Channels' ``get_channel_layer`` returns, with its type.

    Raises `ConfigError` if there is none, or if it is another package's.
    """
    layer = channel_layers[alias] if alias in channel_layers.configs else None
    if isinstance(layer, AnyioChannelLayer):
        return layer
    backend = f"{AnyioChannelLayer.__module__.partition('.')[0]}.{AnyioChannelLayer.__name__}"
    found = "is not set" if layer is None else f"is a {type(layer).__name__}"
    raise ConfigError(f"CHANNEL_LAYERS[{alias!r}] {found}.", hint=f"Set its BACKEND to {backend!r}.", code="E006")
