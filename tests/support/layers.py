"""What the tests of all brokers' layers share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import anyio
import pytest

from django_anyio_channels import BaseChannelLayer

TIME_LIMIT = 30.0
"""Seconds after which a test that waits for something has failed."""

Layer = TypeVar("Layer", bound=BaseChannelLayer)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The drivers are asyncio's. Its debug mode makes seconds of a test that takes a tenth of one."""
    return "asyncio", {"debug": False}


@asynccontextmanager
async def connecting(make: Callable[..., Layer]) -> AsyncIterator[Callable[..., Awaitable[Layer]]]:
    """Gives a function that makes connected layers; they are disconnected at the end."""
    async with AsyncExitStack() as stack:

        async def connect(url: str, **options: Any) -> Layer:
            layer = make(url, **options)
            stack.push_async_callback(layer.disconnect)
            with anyio.fail_after(TIME_LIMIT):
                await layer.connect()
            return layer

        yield connect
