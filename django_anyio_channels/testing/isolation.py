"""Keeps test runs on one broker apart, and each test from the one before. Importing it imports no Django."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..django.names import TEST_RUN

if TYPE_CHECKING:
    from ..django.layer import AnyioChannelLayer


def begin_run(worker: str = "") -> None:
    """Give the layers of this process, and of those that it starts, a prefix that no other test run has.

    ``worker`` becomes a part of it.
    """
    os.environ[TEST_RUN] = "-".join(filter(None, (secrets.token_hex(6), worker)))
    for layer, config in _layers():
        layer._begin_run(config)


def end_run() -> None:
    """Give layers that are made from now on their usual prefix."""
    os.environ.pop(TEST_RUN, None)


def empty_layers() -> None:
    """Flush the layers that were used. Raises what `AnyioChannelLayer.flush` raises."""
    for layer, _ in _layers():
        layer._empty()


def _layers() -> Iterator[tuple[AnyioChannelLayer, dict[str, Any]]]:
    """The layers that Channels has made so far, with their CONFIG."""
    channels: Any = sys.modules.get("channels.layers")
    made = {} if channels is None else channels.channel_layers.backends.copy()
    for alias, layer in made.items():
        from ..django.layer import AnyioChannelLayer

        if isinstance(layer, AnyioChannelLayer):
            yield layer, channels.channel_layers.configs[alias].get("CONFIG", {})
