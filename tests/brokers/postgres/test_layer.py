"""The layer while it is not connected, and without its driver."""

from __future__ import annotations

import importlib
import sys

import pytest

from django_anyio_channels import ListenerClosed, MissingDriver, PostgreSQLChannelLayer

pytestmark = pytest.mark.anyio


async def test_what_is_not_connected_says_so() -> None:
    layer = PostgreSQLChannelLayer("postgresql://localhost")
    with pytest.raises(ListenerClosed, match="localhost/ is not connected; use the layer through a Channel"):
        await layer.next_published()
    with pytest.raises(ListenerClosed, match="is not connected; use the layer through a Channel"):
        await layer.publish("g", b"x")


def test_without_the_driver_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "django_anyio_channels.brokers.postgres.layer")
    with pytest.raises(MissingDriver, match=r"pip install django-anyio-channels\[postgres\]$"):
        importlib.import_module("django_anyio_channels.brokers.postgres.layer")
