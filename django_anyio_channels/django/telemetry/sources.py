"""The layers that are measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from ...core.exceptions import MissingDriver
from ...core.telemetry import Histogram

try:
    from channels.layers import channel_layers
except ModuleNotFoundError as error:
    raise MissingDriver(
        "The telemetry of channel layers needs Django and Channels: pip install django-anyio-channels[django]"
    ) from error


class Measurements(NamedTuple):
    """What one layer has measured in this process."""

    statistics: dict[str, float]
    """As of `AnyioChannelLayer.statistics`."""
    publish_time: Histogram
    lag: Histogram


@runtime_checkable
class Source(Protocol):
    """A layer that may be measured."""

    broker: str
    """The kind of its broker."""
    telemetry: tuple[str, ...]
    """Who measures it."""

    def statistics(self) -> dict[str, float]:
        """`AnyioChannelLayer.statistics`."""

    def measurements(self) -> Measurements:
        """Return all that was measured."""


def sources(name: str) -> Iterator[tuple[str, Source]]:
    """Return the layers that ``name`` measures, with their aliases: of ``CHANNEL_LAYERS``, those that are in use."""
    for alias, layer in list(channel_layers.backends.items()):
        if isinstance(layer, Source) and name in layer.telemetry:
            yield alias, layer


def alias_of(layer: object) -> str:
    """Return the alias of a layer in ``CHANNEL_LAYERS``; empty for one that has none."""
    return next((alias for alias, each in list(channel_layers.backends.items()) if each is layer), "")
