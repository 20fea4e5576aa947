"""Layers for the command, on one broker in memory, and a site: another node, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, TypeVar

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_anyio_channels import AnyioChannelLayer, InMemoryBroker, InMemoryChannelLayer
from django_anyio_channels.django.process.background_loop import background
from django_anyio_channels.management.commands.channels import Command

T = TypeVar("T")
TIME_LIMIT = 20.0
OURS = "django_anyio_channels.AnyioChannelLayer"


class Site:
    """A process of the project, as far as the broker can tell."""

    def __init__(self, layer: AnyioChannelLayer, loop: asyncio.AbstractEventLoop) -> None:
        self.layer = layer
        self.loop = loop

    def run(self, call: Callable[[AnyioChannelLayer], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(call(self.layer), self.loop).result(TIME_LIMIT)

    def new_member(self, *groups: str) -> str:
        async def add(layer: AnyioChannelLayer) -> str:
            name = await layer.new_channel()
            for group in groups:
                await layer.group_add(group, name)
            return name

        return self.run(add)


@contextmanager
def running_site(**config: Any) -> Iterator[Site]:
    """Another node with this CONFIG."""
    ready, ended = threading.Event(), asyncio.Event()
    found: list[Site] = []

    async def main() -> None:
        layer = AnyioChannelLayer(**config)
        await layer.new_channel()
        found.append(Site(layer, asyncio.get_running_loop()))
        ready.set()
        await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(TIME_LIMIT)
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(ended.set)
        thread.join(TIME_LIMIT)


@contextmanager
def project(**layers: Any) -> Iterator[None]:
    """A project with these layers, each a CONFIG."""
    configured = {alias: {"BACKEND": OURS, "CONFIG": config} for alias, config in layers.items()}
    with override_settings(CHANNEL_LAYERS=configured):
        yield
    background.stop()
    background.reset()


def call(*words: str) -> str:
    """What the command prints."""
    stdout = StringIO()
    call_command(Command(), *words, stdout=stdout, stderr=StringIO())
    return stdout.getvalue()


def refused(*words: str) -> tuple[str, str]:
    """Why the command fails, and what it prints before that."""
    stdout = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(Command(), *words, stdout=stdout, stderr=StringIO())
    assert caught.value.returncode == 1
    return str(caught.value), stdout.getvalue()


def in_memory(layer: type = InMemoryChannelLayer, **config: Any) -> dict[str, Any]:
    """A CONFIG whose layers are all on one new broker."""
    return {"layer": layer, "options": {"broker": InMemoryBroker()}, **config}


@pytest.fixture
def config() -> dict[str, Any]:
    return in_memory()


@pytest.fixture
def site(config: dict[str, Any]) -> Iterator[Site]:
    with project(default=config), running_site(**config) as running:
        yield running
