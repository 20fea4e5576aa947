"""Brokers for the MQTT tests; a test that kills or freezes one starts its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from django_anyio_channels import MQTTChannelLayer
from tests.brokers import mosquitto
from tests.brokers.mosquitto import Mosquitto

TIME_LIMIT = 20.0
"""Seconds after which a test that waits for something has failed."""

Connect = Callable[..., Any]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The driver is asyncio's. Its debug mode makes seconds of a test that takes a tenth of one."""
    return "asyncio", {"debug": False}


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
    """Makes connected layers and disconnects them at the end."""
    async with AsyncExitStack() as stack:

        async def make(url: str, **options: Any) -> MQTTChannelLayer:
            layer = MQTTChannelLayer(url, **{"probe_interval": 1.0, **options})
            stack.push_async_callback(layer.disconnect)
            with anyio.fail_after(TIME_LIMIT):
                await layer.connect()
            return layer

        yield make
