"""Brokers for the MQTT tests; a test that kills or freezes one starts its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from django_anyio_channels import MQTTChannelLayer
from tests.support.brokers import mosquitto
from tests.support.brokers.mosquitto import Mosquitto
from tests.support.layers import anyio_backend, connecting

__all__ = ["anyio_backend"]

Connect = Callable[..., Any]

on_uvloop_too = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"debug": False}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
"""For tests of what an event loop does for a connection."""


@pytest.fixture(scope="session")
def broker() -> Iterator[Mosquitto]:
    one = mosquitto.mosquitto()
    with mosquitto.running(one):
        yield one


@pytest.fixture(scope="session")
def protected_broker() -> Iterator[Mosquitto]:
    one = mosquitto.protected("topic readwrite allowed/#", "topic read readable", "topic write writable")
    with mosquitto.running(one):
        yield one


@pytest.fixture(scope="session")
def encrypted_broker() -> Iterator[Mosquitto]:
    one = mosquitto.encrypted()
    with mosquitto.running(one):
        yield one


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connected layers, and disconnects them at the end."""
    async with connecting(partial(MQTTChannelLayer, probe_interval=1.0)) as connect:
        yield connect
